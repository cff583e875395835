"""What no chosen task reads is frozen, all that is left gets a gradient, and a checkpoint's names depend on no task."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import ResNetConfig

from renaissance.core.types import Batch, Example
from renaissance.data.collate import Collate, Source, TargetBuilder
from renaissance.data.transforms import make_transform
from renaissance.settings.declared import defaults
from renaissance.settings.resolver import ConfigResolver
from renaissance.tasks import Encodings, task_class
from renaissance.training.assembly import Built, build
from renaissance.training.resolution import Resolved
from renaissance.training.unused_parameters import freeze_unused_parameters
from tiny_models import MAX_TEXT_LEN, PATCH, SIDE, VOCAB, WORDS, image_config, text_config, tokenizer

MLM, ITM, BOTH = {"mlm": 1, "itm": 0}, {"mlm": 0, "itm": 1}, {"mlm": 1, "itm": 1}
TWO = {"image_encoder": "an image encoder", "text_encoder": "a text encoder", "cross_layer_hidden_size": 24}
TWO |= {"num_cross_layers": 2, "num_cross_layer_heads": 2, "random_init_vision_encoder": True}
TWO |= {"random_init_text_encoder": True, "text_encoder_drop_rate": 0.0, "image_encoder_drop_rate": 0.0}
ONE = {"encoder": "an encoder", "random_init_encoder": True, "drop_rate": 0.0}
CONFIGS = {"image_encoder": image_config, "text_encoder": text_config}
# A softmax does not change when all its inputs move by the same amount: the keys' bias has no gradient but rounding.
KEY_BIAS = re.compile(r"\bk(ey)?(_proj)?\.bias$")


def resolved(name: str, losses: dict[str, int], **given: object) -> Resolved:
    """As `assembly.resolve` leaves a command, with configurations instead of pretrained models."""
    sizes = {"image_size": SIDE, "patch_size": PATCH, "vocab_size": VOCAB, "max_text_len": MAX_TEXT_LEN}
    tower = ONE if name.startswith("one") else {**TWO, "fusion": name}
    values = {**defaults(), **tower, **sizes, "tokenizer": "words", "loss_names": losses, "max_steps": 9}
    resolver = ConfigResolver({**values, "batch_size": 4, **given}, dict.fromkeys([*tower, *sizes, *given], "given"))
    resolver.name_towers()
    configs = {"encoder": image_config()} if name == "one-image" else {"encoder": text_config()}
    configs |= {key: make() for key, make in CONFIGS.items()}
    image = {"mean": [0.5] * 3, "std": [0.5] * 3}
    return Resolved(
        resolver.finalize(), {key: configs[key] for key in resolver.towers()}, tokenizer(), image, None, [], {}
    )


def target_builders_of(run: Resolved) -> dict[str, TargetBuilder]:
    return {
        name: task_class(name).target_builder(run.settings, run.tokenizer)
        for name in run.settings.objectives.loss_names
    }


def a_batch(run: Resolved) -> Batch:
    """Eight different pairs."""
    generator = torch.Generator().manual_seed(0)
    examples = [
        Example(
            id=number,
            epoch=0,
            images=(torch.randint(0, 256, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8),),
            text=" ".join(WORDS[5 + (number * 3 + place) % (VOCAB - 5)] for place in range(4 + number)),
            text_keys=frozenset([number]),
            image_key=number,
        )
        for number in range(8)
    ]
    transform = make_transform("imagenet", SIDE, patch_size=PATCH, seed=0)
    return Collate(run.tokenizer, MAX_TEXT_LEN, 8, target_builders_of(run), Source([], transform))(examples)[0]


def parameters(built: Built) -> dict[str, torch.nn.Parameter]:
    return {**dict(built.model.named_parameters()), **dict(built.heads.named_parameters())}


POOLERS = {"text_pooler", "image_pooler"}
LAST = "fusion.layers.1."
CASES = [
    ("shared", MLM, {}, {*POOLERS, f"{LAST}image"}),
    ("separate", MLM, {}, {*POOLERS, *(f"{LAST}image_{part}" for part in ("attention", "cross", "feed_forward"))}),
    ("merged", MLM, {}, POOLERS),
    ("one-text", MLM, {"pooler_type": "double"}, POOLERS),
    ("one-image", MLM, {}, {"text_pooler"}),
    ("shared", ITM, {}, set()),
    ("shared", ITM, {"pooler_type": "single"}, {f"{LAST}image"}),
    ("one-image", ITM, {}, set()),
    ("shared", BOTH, {}, set()),
]


@pytest.mark.parametrize(("name", "losses", "given", "unread"), CASES)
def test_all_that_the_tasks_read_gets_a_gradient_and_all_else_is_frozen(
    name: str, losses: dict[str, int], given: dict[str, object], unread: set[str]
) -> None:
    run = resolved(name, losses, **given)
    built = build(run)
    before = {path for path, parameter in parameters(built).items() if not parameter.requires_grad}
    frozen = freeze_unused_parameters(built, run, target_builders_of(run))
    batch = a_batch(run)
    encodings = Encodings(built.model, batch)
    sum(task(encodings, batch.targets[task_name]).loss for task_name, task in built.heads.items()).backward()
    for path, parameter in parameters(built).items():
        if not parameter.requires_grad:
            assert parameter.grad is None, path
        elif not KEY_BIAS.search(path):
            assert parameter.grad is not None and parameter.grad.any(), path
    # What is frozen is what was expected, and no gradient came of it by accident of the batch.
    expected = {path for path in parameters(built) if path.startswith(tuple(f"{part}." for part in unread))}
    assert set(frozen) == expected - before
    assert len(frozen) == len(set(frozen))


@pytest.mark.parametrize("name", ["shared", "separate", "merged", "one-text", "one-image"])
def test_the_names_in_a_checkpoint_do_not_depend_on_its_tasks(name: str) -> None:
    states = []
    for losses in (MLM, ITM, BOTH):
        run = resolved(name, losses)
        built = build(run)
        freeze_unused_parameters(built, run, target_builders_of(run))
        shapes = {path: tensor.shape for path, tensor in built.model.state_dict().items()}
        heads = {path.split(".")[0] for path in built.heads.state_dict()}
        assert heads == {task for task, weight in losses.items() if weight}
        states.append(shapes)
    assert states[0] == states[1] == states[2]


def test_looking_changes_nothing_but_what_is_frozen() -> None:
    """Batch norms keep the statistics of real images, and the model is left as training wants it."""
    run = resolved("shared", BOTH, freeze_text_encoder=True)
    run.configs["image_encoder"] = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    built = build(run)
    state = {path: tensor.clone() for path, tensor in built.model.state_dict().items()}
    assert any("running_mean" in path for path in state)
    freeze_unused_parameters(built, run, target_builders_of(run))
    for path, tensor in built.model.state_dict().items():
        assert torch.equal(tensor, state[path]), path
    assert built.model.training and built.heads.training and built.model.image_tower.training
    assert not built.model.text_tower.training
