"""The schedule against transformers' at every step, who is in which parameter group, and steps that are skipped."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import get_cosine_schedule_with_warmup, get_polynomial_decay_schedule_with_warmup

from renaissance.core.errors import UserError
from renaissance.settings.sections import Section
from renaissance.tasks.base import Context
from renaissance.tasks.itm import Itm
from renaissance.tasks.mlm import Mlm
from renaissance.training.optim import (
    learning_rate,
    load_state,
    make_optimizer,
    parameter_groups,
    role_of,
    scale_kept,
    set_learning_rate,
    skip_step,
    total_steps,
    unscale,
    whole_state,
)
from small_run import equal_state
from tiny_models import VOCAB, one_tower, two_tower

SETTINGS = Section(
    optim_type="adamw",
    learning_rate=2e-3,
    lr_mult_cross_modal=5,
    lr_mult_head=7,
    lr_mult_random=1,
    weight_decay=0.01,
    decay_power=1,
    warmup_steps=0.1,
    end_lr=0,
    max_steps=100,
    max_epoch=None,
    val_check_interval=1.0,
    gradient_clip_val=None,
)


def with_(settings: Section, **given: object) -> Section:
    return Section(**vars(settings) | given)


def rates(settings: Section, total: int) -> list[float]:
    return [learning_rate(step, total, settings) for step in range(total + 3)]


def plain_optimizer(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)


@pytest.mark.parametrize("warmup", [0, 1, 7, 39])
@pytest.mark.parametrize(("power", "end"), [(1, 0.0), (1, 1e-4), (2, 1e-5), (0.5, 0.0)])
def test_polynomial_decay_is_transformers(power: float, end: float, warmup: int) -> None:
    total, settings = 40, with_(SETTINGS, decay_power=power, end_lr=end, warmup_steps=warmup)
    theirs = get_polynomial_decay_schedule_with_warmup(
        plain_optimizer(settings.learning_rate), warmup, total, lr_end=end, power=power
    ).lr_lambdas[0]
    expected = [settings.learning_rate * theirs(step) for step in range(total + 3)]
    assert rates(settings, total) == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("warmup", [0, 7])
def test_cosine_decay_is_transformers_and_ends_at_end_lr(warmup: int) -> None:
    total, settings = 40, with_(SETTINGS, decay_power="cosine", warmup_steps=warmup)
    theirs = get_cosine_schedule_with_warmup(plain_optimizer(1.0), warmup, total).lr_lambdas[0]
    shares = [theirs(min(step, total)) for step in range(total + 3)]
    assert rates(settings, total) == pytest.approx([settings.learning_rate * share for share in shares], abs=1e-15)
    raised = rates(with_(settings, end_lr=5e-4), total)
    expected = [5e-4 + 1.5e-3 * share for share in shares[warmup:]]
    assert raised[warmup:] == pytest.approx(expected)


def test_a_share_of_warm_up_is_of_the_real_number_of_steps() -> None:
    """Not of max_steps, where max_epoch ends the run before."""
    settings = with_(SETTINGS, max_steps=1000, max_epoch=2, warmup_steps=0.25)
    total = total_steps(settings, pairs=80, batch_size=8)
    assert total == 20
    curve = rates(settings, total)
    assert curve.index(max(curve)) == 5
    assert curve == pytest.approx(rates(with_(settings, warmup_steps=5), total))


@pytest.mark.parametrize(
    ("max_steps", "max_epoch", "expected"),
    [
        (30, None, 30),
        (None, 1, 7),  # 50 pairs, 8 a step: the last step goes over into the next epoch
        (None, 3, 19),
        (None, 0.5, 4),
        (None, 0.001, 1),
        (30, 3, 19),
        (10, 3, 10),
    ],
)
def test_the_first_reached_of_steps_and_epochs_ends_the_run(
    max_steps: int | None, max_epoch: float | None, expected: int
) -> None:
    settings = with_(SETTINGS, max_steps=max_steps, max_epoch=max_epoch)
    assert total_steps(settings, pairs=50, batch_size=8) == expected


BROUGHT = {
    "two": ("text_tower.", "image_tower."),
    "one-text": ("blocks.", "text_embeddings."),
    "one-image": ("blocks.", "image_embeddings."),
}


def model_and_heads(name: str) -> tuple[nn.Module, nn.ModuleDict]:
    model = two_tower("separate") if name == "two" else one_tower(name.removeprefix("one-"))
    return model, nn.ModuleDict({"mlm": Mlm(model, Context(None, VOCAB)), "itm": Itm(model, Context(None, VOCAB))})


@pytest.mark.parametrize("name", BROUGHT)
def test_every_trainable_parameter_is_in_the_one_group_of_its_role_and_shape(name: str) -> None:
    model, heads = model_and_heads(name)
    frozen = [next(model.text_pooler.parameters()), *heads["mlm"].parameters()]
    for parameter in frozen:
        parameter.requires_grad_(False)
    expected = {}
    for prefix, module in (("model.", model), ("heads.", heads)):
        for path, parameter in module.named_parameters():
            role = "tower" if path.startswith(BROUGHT[name]) else "fusion"
            role = "head" if prefix == "heads." else role
            if parameter.requires_grad:
                expected[id(parameter)] = (role, "matrices" if parameter.ndim > 1 else "vectors")
    groups = parameter_groups(model, heads, SETTINGS)
    found = [(id(p), tuple(group["name"].split(", "))) for group in groups for p in group["params"]]
    assert len(found) == len(expected)
    assert dict(found) == expected
    multipliers = {"tower": 1, "fusion": 5, "head": 7}
    assert all(group["multiplier"] == multipliers[group["name"].split(", ")[0]] for group in groups)
    assert len({group["name"] for group in groups}) == len(groups)
    assert len(list(role_of(model, heads))) == len(expected) + len(frozen)


@pytest.mark.parametrize(
    ("name", "part", "prefix"),
    [
        ("two", "text_tower", "text_tower."),
        ("two", "fusion", "fusion."),
        ("one-text", "encoder", "text_embeddings."),
    ],
)
def test_frozen_parts_are_in_no_group(name: str, part: str, prefix: str) -> None:
    model, heads = model_and_heads(name)
    model.freeze(model.pretrained if part == "encoder" else [part])
    grouped = {id(p) for group in parameter_groups(model, heads, SETTINGS) for p in group["params"]}
    frozen = {path for path, parameter in model.named_parameters() if id(parameter) not in grouped}
    assert any(path.startswith(prefix) for path in frozen)
    assert frozen == {path for path, parameter in model.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize(
    ("name", "random", "prefixes"),
    [
        ("two", {"text tower"}, ("text_tower.",)),
        ("two", {"image tower", "text tower"}, ("image_tower.", "text_tower.")),
        ("one-text", {"encoder"}, BROUGHT["one-text"]),
        ("two", set(), ()),
    ],
)
def test_towers_of_random_weights_have_a_rate_of_their_own(name: str, random: set[str], prefixes: tuple) -> None:
    model, heads = model_and_heads(name)
    groups = parameter_groups(model, heads, with_(SETTINGS, lr_mult_random=3), random)
    multiplier = {id(parameter): group["multiplier"] for group in groups for parameter in group["params"]}
    towers = {path: p for path, p in model.named_parameters() if path.startswith(BROUGHT[name]) and p.requires_grad}
    assert {path: multiplier[id(p)] for path, p in towers.items()} == {
        path: 3 if path.startswith(prefixes) else 1 for path in towers
    }
    # At the rate of all others they are no groups of their own, as in checkpoints from before there was one.
    assert [group["name"] for group in parameter_groups(model, heads, SETTINGS, random)] == [
        group["name"] for group in parameter_groups(model, heads, SETTINGS)
    ]


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_the_optimizer_gives_each_group_its_rate_and_decay(kind: str) -> None:
    groups = parameter_groups(*model_and_heads("two"), SETTINGS)
    optimizer = make_optimizer(groups, with_(SETTINGS, optim_type=kind))
    expected = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}[kind]
    assert type(optimizer) is expected
    set_learning_rate(optimizer, 1e-4)
    for group, made in zip(groups, optimizer.param_groups, strict=True):
        assert made["lr"] == pytest.approx(1e-4 * group["multiplier"])
        assert made["weight_decay"] == (0.01 if group["name"].endswith("matrices") else 0)
        assert all(a is b for a, b in zip(made["params"], group["params"], strict=True))
        if kind == "sgd":
            assert made["momentum"] == 0.9
        else:
            assert made["betas"] == (0.9, 0.98)


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_a_kept_state_comes_back_where_it_fits_and_nothing_else_does(kind: str) -> None:
    def made(width: int = 3) -> torch.optim.Optimizer:
        torch.manual_seed(0)
        model = nn.ModuleDict({"tower": nn.Linear(width, 2), "head": nn.Linear(2, 2)})
        groups = [{"params": list(part.parameters()), "lr": 0.1} for part in model.values()]
        optimizer = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}[kind](
            groups, **({"momentum": 0.9} if kind == "sgd" else {})
        )
        model["head"](model["tower"](torch.ones(1, width))).sum().backward()
        optimizer.step()
        return optimizer

    kept = whole_state(made(), first=True)
    kept["param_groups"][0] |= {"lr": 0.05, "weight_decay": "x", "betas": None}  # the settings have them
    optimizer = made()
    load_state(optimizer, kept, "resume_from=a.ckpt")
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.05 and optimizer.param_groups[1]["lr"] == 0.1
    for wrong in (
        whole_state(made(4), first=True),
        kept | {"param_groups": kept["param_groups"][:1]},
        kept | {"state": kept["state"] | {99: kept["state"][0]}},
        kept | {"state": kept["state"] | {0: {"moment": torch.zeros(2, 3)}}},
    ):
        with pytest.raises(UserError, match=r"resume_from=a\.ckpt holds the state of another optimizer"):
            load_state(made(), wrong, "resume_from=a.ckpt")


def trained(
    kind: str, gradients: list[list[Tensor]], step: Callable[[torch.optim.Optimizer, int], None], **options: Any
):
    """Parameters, and the optimizer's state, after steps with given gradients."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4))]
    groups = [{"params": parameters, "name": "all", "multiplier": 1.0, "weight_decay": 0.01}]
    optimizer = make_optimizer(groups, with_(SETTINGS, optim_type=kind, learning_rate=0.1))
    for group in optimizer.param_groups:
        group.update(options)
    for number, each in enumerate(gradients):
        for parameter, gradient in zip(parameters, each, strict=True):
            parameter.grad = gradient.clone()
        step(optimizer, number)
    return parameters, [{name: value for name, value in optimizer.state[p].items()} for p in parameters]


def random_gradients(steps: int) -> list[list[Tensor]]:
    torch.manual_seed(1)
    return [[torch.randn(3, 4), torch.randn(4)] for _ in range(steps)]


@pytest.mark.parametrize("bad", [{0}, {2, 3}])
@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_a_step_that_is_left_out_changes_nothing(kind: str, bad: set[int]) -> None:
    """Bit for bit: the steps around it are those of a training that never had it, be it the first one."""
    gradients = random_gradients(5)

    def leaving_out(optimizer: torch.optim.Optimizer, number: int) -> None:
        if number in bad:
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.grad[0] = math.nan
        skip_step(optimizer, torch.tensor(number in bad))
        optimizer.step()

    good = [each for number, each in enumerate(gradients) if number not in bad]
    assert equal_state(
        list(trained(kind, gradients, leaving_out)), list(trained(kind, good, lambda optimizer, _: optimizer.step()))
    )


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_scaled_gradients_are_applied_as_pytorch_does_it(kind: str) -> None:
    """The recipe for 16-mixed with clipping: overflown steps are skipped, and the scale follows them alone."""
    scales: dict[str, list[float]] = {"ours": [], "torch": []}
    scalers = {name: torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2) for name in scales}

    def step(optimizer: torch.optim.Optimizer, number: int, name: str) -> None:
        scaler, parameters = scalers[name], optimizer.param_groups[0]["params"]
        scaler.scale(torch.ones(()))  # makes the scale
        for parameter in parameters:
            parameter.grad *= float(scaler.get_scale())
            if number in (0, 4):
                parameter.grad[0] = math.inf
        if name == "ours":
            unscale(scaler, optimizer, torch.tensor(number == 2))
        else:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, 0.5)
        if name == "ours":
            with scale_kept(scaler, torch.tensor(number == 2)):
                scaler.step(optimizer)
                scaler.update()
        elif number != 2:  # a loss that is not finite
            optimizer._step_supports_amp_scaling = False  # it reads whether to call the optimizer
            scaler.step(optimizer)
            scaler.update()
        else:
            scaler._per_optimizer_states.clear()
        scales[name].append(scaler.get_scale())

    gradients = random_gradients(7)
    ours = trained(kind, gradients, partial(step, name="ours"))
    theirs = trained(kind, gradients, partial(step, name="torch"), fused=False, foreach=False)
    assert scales["ours"] == scales["torch"] and {*scales["ours"]} == {2.0, 4.0}
    torch.testing.assert_close(ours[0], theirs[0], atol=1e-6, rtol=1e-5)
