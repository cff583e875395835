"""Compiled stacks: the same gradients, evaluation as written, few shapes, and where it does not work the program says so."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from renaissance.models.execution import compile_stacks, enable_gradient_checkpointing, stacks
from tiny_models import MODELS, pictures, texts

# dynamo looks at gradients of what is no leaf, and hides the warning only where it is none that ends the program.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Backend:
    """Runs graphs as they were traced, and counts those that run. It needs no C++ compiler."""

    def __init__(self) -> None:
        self.ran = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        def run(*inputs: Any) -> Any:
            self.ran += 1
            return graph.forward(*inputs)

        return run


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, float) and (name == "p" or "drop" in name):
                setattr(module, name, 0.0)
    return model


def gradients(model: nn.Module, lengths: tuple[int, ...] = (7, 4), kept: Tensor | None = None) -> dict[str, Tensor]:
    """The gradient of a made-up loss over all that a model puts out."""
    model.zero_grad()
    fused = model.fuse(model.embed_text(texts(lengths)), model.embed_image(pictures()._replace(kept=kept)))
    random = torch.Generator().manual_seed(0)
    sum((each * torch.randn(each.shape, generator=random)).sum() for each in fused).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def the_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@every_model
@pytest.mark.parametrize("recomputes", [False, True])
def test_compiled_stacks_have_the_same_gradients(name: str, recomputes: bool):
    model, said, backend = without_dropout(MODELS[name]()).train(), [], Backend()
    plain, names = gradients(model), list(model.state_dict())
    if recomputes:
        enable_gradient_checkpointing(model)
    compile_stacks(model, said.append, backend)
    for _ in range(2):
        before = backend.ran
        the_same(gradients(model), plain)
        assert backend.ran >= before + len(list(stacks(model)))
    assert list(model.state_dict()) == names
    before = backend.ran
    with torch.no_grad():
        gradients_free = model.eval().fuse(model.embed_text(texts()), model.embed_image(pictures()))
    assert backend.ran == before and gradients_free.pooled is not None  # evaluation runs as written


@pytest.mark.parametrize("name", ["two-tower", "one-tower of ViT"])
def test_patches_are_left_out_of_compiled_stacks_too(name: str):
    """Other ones at each step, without a new graph; and none in the last steps of a run."""
    model, said, backend = without_dropout(MODELS[name]()).train(), [], Backend()
    choices = [torch.tensor([[0, 5, 6, 15], [3, 4, 9, 10]]), torch.tensor([[1, 2, 3, 4], [0, 7, 8, 9]]), None]
    plain = [gradients(model, kept=kept) for kept in choices]
    compile_stacks(model, said.append, backend)
    for kept, expected in zip(choices, plain, strict=True):
        before = backend.ran
        the_same(gradients(model, kept=kept), expected)
        assert backend.ran >= before + len(list(stacks(model)))
    assert not [sentence for sentence in said if sentence.startswith("warning")]


def failing(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
    raise RuntimeError("no compiler here\nand more")


def test_what_cannot_be_compiled_runs_as_written_and_is_said_once():
    model, said = without_dropout(MODELS["two-tower"]()).train(), []
    plain = gradients(model)
    compile_stacks(model, said.append, failing)
    for _ in range(2):
        the_same(gradients(model), plain)
    assert len(said) == 3
    for sentence, (name, _) in zip(sorted(said), sorted(stacks(model)), strict=True):
        assert sentence.startswith(f"warning: compile=True: the {name} cannot be compiled (")
        assert "no compiler here" in sentence and sentence.endswith("); it runs as written.") and "\n" not in sentence


def test_a_stack_is_compiled_once_more_for_all_lengths():
    model, said, backend = without_dropout(MODELS["two-tower"]()).train(), [], Backend()
    plain = {length: gradients(model, (length, 4)) for length in (5, 7, 8, 6, 9)}
    compile_stacks(model, said.append, backend)
    for length, expected in plain.items():
        the_same(gradients(model, (length, 4)), expected)
    assert all(re.fullmatch(r"compile=True: compiled the \w+ in \d+ s", sentence) for sentence in said)
    assert Counter(sentence.split()[3] for sentence in said) == {"image_tower": 1, "text_tower": 2, "fusion": 2}


def test_an_error_of_the_model_itself_is_no_matter_of_compiling():
    model, said = MODELS["two-tower"]().train(), []
    compile_stacks(model, said.append, Backend())
    with pytest.raises(IndexError):
        model.embed_text(texts()._replace(input_ids=texts().input_ids + 1000))
    assert said == []
