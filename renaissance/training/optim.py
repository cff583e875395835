"""Parameter groups by role, the optimizer, and the schedule: the learning rate is a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.optim import ZeroRedundancyOptimizer

from renaissance.core.errors import require
from renaissance.settings.sections import Section

ROLES = ("text tower", "image tower", "encoder", "fusion", "head")
_KEPT = {torch.optim.SGD: {"momentum_buffer"}, torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"}}  # of each parameter


def role_of(model: nn.Module, heads: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Each parameter once, with its role: (one of ROLES, parameter). All that is new between towers and heads is fusion."""
    fresh = {id(parameter) for module in model.fresh_modules() for parameter in module.parameters()}
    for name, parameter in model.named_parameters():
        tower = {"text_tower": "text tower", "image_tower": "image tower"}.get(name.partition(".")[0], "encoder")
        yield ("fusion" if id(parameter) in fresh else tower), parameter
    yield from (("head", parameter) for parameter in heads.parameters())


def random_towers(model: Section) -> set[str]:
    """The roles of the towers that start from random weights."""
    towers = {"encoder": model.encoder, "image tower": model.image_encoder, "text tower": model.text_encoder}
    return {role for role, tower in towers.items() if tower is not None and tower.random}


def parameter_groups(
    model: nn.Module, heads: nn.Module, optim: Section, random: Set[str] = frozenset()
) -> list[dict[str, Any]]:
    """Trainable parameters by role and shape, in a fixed order, as an optimizer takes them; frozen ones are in none.

    Matrices decay; biases, norms and other vectors do not.

    Args:
        random: of `random_towers`; they are groups of their own only where their rate is, as in checkpoints from before there was
            one.

    Returns:
        {"name": "tower", "random tower", "fusion" or "head", and "matrices" or "vectors"; "params"; "weight_decay";
        "multiplier" of the learning rate} each.
    """
    multipliers = {
        "tower": 1.0,
        "random tower": optim.lr_mult_random,
        "fusion": optim.lr_mult_cross_modal,
        "head": optim.lr_mult_head,
    }
    groups = {
        (kind, ndim): {"name": f"{kind}, {ndim}", "params": [], "weight_decay": decay, "multiplier": multiplier}
        for kind, multiplier in multipliers.items()
        for ndim, decay in (("matrices", optim.weight_decay), ("vectors", 0.0))
    }
    for role, parameter in role_of(model, heads):
        tower = "random tower" if role in random and optim.lr_mult_random != 1 else "tower"
        if parameter.requires_grad:
            kind = role if role in multipliers else tower
            groups[kind, "matrices" if parameter.ndim > 1 else "vectors"]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def make_optimizer(groups: list[dict[str, Any]], optim: Section, *, shared: bool = False) -> torch.optim.Optimizer:
    """AdamW or Adam with betas .9/.98 and eps 1e-8 (ViLT, METER), or SGD with momentum .9; one kernel for all parameters.

    Args:
        groups: of `parameter_groups`.
        shared: each process holds and updates its share, and hands out the new weights (ZeRO stage 1, Rajbhandari et al. 2020).
    """
    kind, more = {
        "sgd": (torch.optim.SGD, {"momentum": 0.9}),
        "adam": (torch.optim.Adam, {"betas": (0.9, 0.98), "eps": 1e-8}),
        "adamw": (torch.optim.AdamW, {"betas": (0.9, 0.98), "eps": 1e-8}),
    }[optim.optim_type]
    more |= {"lr": optim.learning_rate, "fused": True}
    made = ZeroRedundancyOptimizer(groups, optimizer_class=kind, **more) if shared else kind(groups, **more)
    made._step_supports_amp_scaling = True  # as that within; else the gradient scaler reads whether to skip a step
    _complete(made)
    return made


def _own(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """What updates the parameters of this process: the optimizer itself, or that within a shared one."""
    return getattr(optimizer, "optim", optimizer)


def _complete(optimizer: torch.optim.Optimizer) -> None:
    """What fused kernels take for granted, and torch does not see to."""
    own = _own(optimizer)
    for parameter in (each for group in own.param_groups for each in group["params"]):
        state = own.state[parameter] if isinstance(own, torch.optim.SGD) else own.state.get(parameter, {})
        if isinstance(own, torch.optim.SGD) and state.get("momentum_buffer") is None:
            # A first step makes it, which where it is skipped would stay memory that nobody has written to.
            state["momentum_buffer"] = torch.zeros_like(parameter)
        if "step" in state:  # a shared optimizer that is loaded has it on the CPU
            state["step"] = state["step"].to(parameter.device)


def skip_step(optimizer: torch.optim.Optimizer, where: Tensor) -> None:
    """Makes the next step change nothing, if `where` () bool is True; the device alone looks at it."""
    own = _own(optimizer)
    own.grad_scale, own.found_inf = None, where.float()


def unscale(scaler: Any, optimizer: torch.optim.Optimizer, where: Tensor) -> None:
    """Unscales the gradients of 16-mixed; the next step changes nothing if one has overflown, or if `where` () bool is True."""
    scaler.unscale_(optimizer)
    [overflown] = scaler._found_inf_per_device(optimizer).values()
    skip_step(optimizer, overflown.copy_(torch.maximum(overflown, where.float())))


@contextmanager
def scale_kept(scaler: Any, where: Tensor) -> Iterator[None]:
    """Around an update: keeps the scale of 16-mixed if `where` () bool is True, because a smaller one makes no loss finite."""
    states = (scaler._scale, scaler._growth_tracker)
    before = [state.clone() for state in states]
    yield
    for state, value in zip(states, before, strict=True):
        state.copy_(torch.where(where, value, state))


def is_shared(optimizer: torch.optim.Optimizer) -> bool:
    """Whether each process holds a share of the state only."""
    return isinstance(optimizer, ZeroRedundancyOptimizer)


def whole_state(optimizer: torch.optim.Optimizer, *, first: bool) -> dict[str, Any] | None:
    """The state of an optimizer, the same whether its processes share it or not; None on all but the first, which keeps it.

    Collective: call on all ranks.
    """
    if not is_shared(optimizer):
        return optimizer.state_dict() if first else None
    optimizer.consolidate_state_dict(to=0)
    state = optimizer.state_dict() if first else None
    optimizer._all_state_dicts = []  # of all processes, which it would keep until the next time
    return state


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any], where: str) -> None:
    """Gives an optimizer the state that `whole_state` took of each parameter; its decays and the like are those of the settings.

    Args:
        where: the setting that named the checkpoint, and its path.

    Raises:
        UserError: it is the state of other parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    kind = torch.optim.SGD if isinstance(_own(optimizer), torch.optim.SGD) else torch.optim.Adam
    fits = sizes == [len(group["params"]) for group in state["param_groups"]] and all(
        number in range(len(parameters)) and _fits(values, _KEPT[kind], parameters[number].shape)
        for number, values in state["state"].items()
    )
    require(
        fits,
        f"{where} holds the state of another optimizer, or of one of other parameters; it is damaged, or was not written by this "
        "program.",
    )
    numbers = iter(range(len(parameters)))
    groups = [
        {**own, "lr": saved["lr"], "params": [next(numbers) for _ in own["params"]]}
        for own, saved in zip(optimizer.param_groups, state["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
    _complete(optimizer)
    if is_shared(optimizer):
        optimizer.state.clear()  # its share is in the optimizer within; this would be a second copy


def _fits(values: dict[str, Any], names: set[str], shape: torch.Size) -> bool:
    """Whether these are what an optimizer keeps of a parameter: its moments, and a number of steps."""
    return values.keys() == names and all(
        tensor is None or tensor.shape == (torch.Size() if name == "step" else shape) for name, tensor in values.items()
    )


def total_steps(optim: Section, pairs: int, batch_size: int) -> int:
    """Optimizer steps of the whole run: the first reached of max_steps and max_epoch; `pairs` are one epoch."""
    ends = [] if optim.max_steps is None else [optim.max_steps]
    if optim.max_epoch is not None:
        ends.append(max(1, math.ceil(optim.max_epoch * pairs / batch_size)))
    return min(ends)


def steps_of(value: int | float, whole: int) -> int:
    """A number of steps: `value` itself where it is a whole number, else that share of `whole`."""
    return value if isinstance(value, int) else round(value * whole)


def validation_interval(optim: Section, pairs: int, batch_size: int) -> int:
    """Optimizer steps between validations, at least 1; `pairs` are one epoch."""
    return max(1, steps_of(optim.val_check_interval, max(1, pairs // batch_size)))


def learning_rate(step: int, total: int, optim: Section) -> float:
    """The learning rate at a step, before the groups' multipliers.

    Linear warm-up from 0, then (1 - progress)^decay_power or half a cosine down to `end_lr`: the schedules of
    `transformers.optimization`, with the share of warm-up taken of the real number of steps.

    Args:
        step: 0-based. total: steps of the whole run.
    """
    warmup = steps_of(optim.warmup_steps, total)
    if step < warmup:
        return optim.learning_rate * step / max(1, warmup)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    power = optim.decay_power
    share = 0.5 * (1 + math.cos(math.pi * progress)) if power == "cosine" else (1 - progress) ** power
    return optim.end_lr + (optim.learning_rate - optim.end_lr) * share


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every group its share of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["multiplier"]
