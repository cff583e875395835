"""Renames the tensors of another program by rules, and accounts for each of them.

A rule is a regular expression of a whole key and what becomes of it:

    "text:embeddings.word_embeddings.weight"   the tensor under another name
    ("text:q.weight", "text:k.weight", ...)    its equal parts along the first dimension, as many as there are names
    "model:qkv.weight[0/3]"                    the first of three parts of a tensor, which are put together
    Unused("a buffer")                         nothing, for a reason

Names may use the groups of the expression (`\1`). What stands before the colon is the part of the model.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from renaissance.core.errors import require, shortened

_PIECE = re.compile(r"(.*)\[(\d+)/(\d+)\]")


class Unused(NamedTuple):
    """Why a tensor is not used."""

    reason: str


Target = str | tuple[str, ...] | Unused
Rules = Iterable[tuple[str, Target]]


@dataclass
class Renamed:
    """What became of the tensors of a model.

    Attributes:
        parts: the tensors by part of the model and name.
        mapped: names of those that are used. unused: the others by reason. unknown: those that no rule explains.
        origins: of "part:name" the name in the file; of one that is put together, that of one of its pieces.
    """

    parts: dict[str, dict[str, Tensor]] = field(default_factory=lambda: defaultdict(dict))
    mapped: list[str] = field(default_factory=list)
    unused: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unknown: list[str] = field(default_factory=list)
    origins: dict[str, str] = field(default_factory=lambda: defaultdict(lambda: "a tensor"))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor as "part:name"."""
        for part, state in self.parts.items():
            yield from ((f"{part}:{name}", tensor) for name, tensor in state.items())

    def forget(self, names: Iterable[str]) -> None:
        """Takes tensors ("part:name") that have no place out again: what they were made of becomes unknown."""
        for name in [*names]:
            part, _, own = name.partition(":")
            self.parts[part].pop(own, None)
            key = self.origins.get(name, own)
            if key not in self.unknown:
                self.unknown.append(key)
        self.mapped = [key for key in self.mapped if key not in {*self.unknown}]

    def forget_parts_but(self, kept: Container[str]) -> None:
        """Forgets whole parts that the model does not have."""
        self.forget([f"{part}:{name}" for part, state in self.parts.items() if part not in kept for name in state])


def rename(state: Mapping[str, Tensor], rules: Rules) -> Renamed:
    """Renames tensors by the first rule whose expression is the whole key.

    Raises:
        UserError: a tensor that is put together lacks a part.
    """
    compiled = [(re.compile(pattern), target) for pattern, target in rules]
    renamed, pieces = Renamed(), defaultdict[str, dict[int, Tensor]](dict)
    counts: dict[str, int] = {}
    for key, tensor in state.items():
        found = next(((match, target) for rule, target in compiled if (match := rule.fullmatch(key))), None)
        if found is None:
            renamed.unknown.append(key)
            continue
        match, target = found
        if isinstance(target, Unused):
            renamed.unused[target.reason].append(key)
            continue
        renamed.mapped.append(key)
        names = (target,) if isinstance(target, str) else target
        fits = len(names) == 1 or (tensor.ndim and len(tensor) % len(names) == 0)
        require(fits, f"{key} is {tuple(tensor.shape)}, which has no {len(names)} equal parts; the file is damaged.")
        for name, piece in zip(names, tensor.chunk(len(names)) if len(names) > 1 else (tensor,), strict=True):
            name = match.expand(name)
            if (whole := _PIECE.fullmatch(name)) is None:
                _put(renamed, name, piece.contiguous(), key)
            else:
                counts[whole[1]] = int(whole[3])
                pieces[whole[1]][int(whole[2])] = piece
                renamed.origins[whole[1]] = key
    for name, numbered in pieces.items():
        absent = [str(number) for number in range(counts[name]) if number not in numbered]
        require(not absent, f"Beside {renamed.origins[name]} lie not all tensors of its kind; the file is not whole.")
        _put(renamed, name, torch.cat([numbered[number] for number in range(counts[name])]), renamed.origins[name])
    return renamed


def _put(renamed: Renamed, name: str, tensor: Tensor, key: str) -> None:
    part, _, own = name.partition(":")
    there = renamed.parts[part].get(own)
    twice = f"{renamed.origins[name]} and {key} are two tensors for one place, and differ; the file is damaged."
    require(there is None or torch.equal(there, tensor), twice)
    renamed.parts[part][own], renamed.origins[name] = tensor, key


def with_bias(pattern: str, target: Target) -> Rules:
    """A rule for `<key>.weight` and one for `<key>.bias`."""
    for kind in ("weight", "bias"):
        if isinstance(target, tuple):
            names: Target = tuple(_suffixed(each, kind) for each in target)
        else:
            names = target if isinstance(target, Unused) else _suffixed(target, kind)
        yield rf"{pattern}\.{kind}", names


def _suffixed(name: str, kind: str) -> str:
    piece = _PIECE.fullmatch(name)
    return f"{name}.{kind}" if piece is None else f"{piece[1]}.{kind}[{piece[2]}/{piece[3]}]"


def report(renamed: Renamed, new: Iterable[str] = ()) -> list[str]:
    """Lines about every tensor. new: names of those that are drawn anew."""
    lines = [f"mapped: {len(renamed.mapped)} tensors"]
    lines += [f"unused: {len(keys)}, {reason} ({shortened(keys, 4)})" for reason, keys in renamed.unused.items()]
    new = list(new)
    if new:
        lines.append(f"missing, drawn anew: {len(new)} ({shortened(new, 4)})")
    if renamed.unknown:
        lines.append(f"not explained: {len(renamed.unknown)} ({shortened(renamed.unknown, 20)})")
    return lines


def every_key(renamed: Renamed, new: Iterable[str] = ()) -> list[str]:
    """A line about each tensor: what it became, or why it became nothing. Arguments as of `report`."""
    became: dict[str, list[str]] = defaultdict(list)
    for name, _ in renamed.tensors():
        became[renamed.origins[name]].append(name)
    lines = [f"{key} -> {', '.join(became[key]) or 'a part of another'}" for key in renamed.mapped]
    lines += [f"{key}: unused, {reason}" for reason, keys in renamed.unused.items() for key in keys]
    return [*lines, *(f"{key}: not explained" for key in renamed.unknown), *(f"{name}: drawn anew" for name in new)]
