"""Builds the transformers model of a family's row: random or pretrained, without poolers and heads."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from renaissance.core.errors import UserError, first_line, require, shortened
from renaissance.settings.bounds import bounded

from .attention import NAME, swap_dropout
from .dimensions import encoder_dimensions, override_dimensions
from .facts import facts_of
from .families import check_modality, class_of
from .family import TEXT, Family, Stack
from .hub import quiet
from .resize import copy_weights
from .weights import read_weights

_MOST_BYTES = 2**38  # of the weights of one encoder


def drop_module(model: nn.Module, path: str) -> nn.Module | None:
    """Replaces a module, such as a pooler or a head, by an identity. Returns it; None if the model has none."""
    path, _, name = path.rpartition(".")
    parent = model.get_submodule(path)
    module = getattr(parent, name, None)
    setattr(parent, name, nn.Identity())
    return module


def final_norm(family: Family) -> str | None:
    """Path of the norm behind the last block of a family that can be a one-tower; None where it has none."""
    return (family.one_tower.norm or None) if isinstance(family.one_tower, Stack) else None


class BuiltEncoder(NamedTuple):
    """A transformers model that was built by its family's row.

    Attributes:
        model: in fp32, in training mode.
        config: rebuilds it, with the given sizes.
        family: its row.
        unused: names of pretrained weights that it does not use.
    """

    model: nn.Module
    config: PreTrainedConfig
    family: Family
    unused: tuple[str, ...]


def build_encoder(
    config: PreTrainedConfig,
    setting: str,
    *,
    weights: str | None,
    allow_download: bool = True,
    image_size: int | None = None,
    vocab_size: int | None = None,
    max_text_len: int | None = None,
) -> BuiltEncoder:
    """Builds a family's encoder.

    Args:
        config: of one tower; not modified.
        setting: the setting that names it: "text_encoder", "image_encoder" or "encoder" (blocks of a one-tower model).
        weights: id or folder of the pretrained weights; None for random ones.
        image_size: pixels, for an image family; pretrained position tables are resized to it.
        vocab_size: rows that the tokenizer needs, for a text family; the word embeddings grow to it.
        max_text_len: most tokens of a text, for a text family; must fit the position table.

    Raises:
        UserError: the family cannot be used, or not with these sizes, or the weights lack parameters.
    """
    name = weights or config.model_type
    family = check_modality(config, name, setting)
    keeps = facts_of(config).final_norm
    possible = final_norm(family) in family.drop if keeps else setting == "encoder"
    require(keeps is None or possible, f"A {config.model_type} model cannot have final_norm={keeps} as {setting}.")
    kept = final_norm(family) if (setting == "encoder" if keeps is None else keeps) else None
    old = copy.deepcopy(config)
    for key, value in family.settings.items():
        setattr(old, key, value)
    new = copy.deepcopy(old)
    grows = False
    if family.modality == TEXT:
        dims = encoder_dimensions(config, name)
        limit, grows = dims["max_text_len"], (vocab_size or 0) > (dims["vocab_size"] or 0)
        require(
            None in (max_text_len, limit) or max_text_len <= limit,
            f"max_text_len={max_text_len} is more than {setting} ({config.model_type}) has positions for: give {limit} or less.",
        )
    elif image_size is not None and family.set_size is not None:
        family.set_size(new, image_size)
    elif not family.any_size:
        new = override_dimensions(new, image_size=image_size)
    grown = override_dimensions(new, vocab_size=vocab_size) if grows else new
    model_class = class_of(family)
    unused: tuple[str, ...] = ()
    if weights is None:
        model = _random(model_class, grown)
    else:
        options = _options(model_class) | ({"key_mapping": {family.within: ""}} if family.within else {})
        model, info = read_weights(model_class, weights, old, allow_download=allow_download, **options)
        unused = _check_loaded(info, weights, family, kept)
        if new.to_dict() != old.to_dict():
            resized = _random(model_class, new)
            with torch.no_grad():
                copy_weights(model, resized, family)
            model = resized
        if grows:
            _grow_vocabulary(model, vocab_size)
    swap_dropout(model)
    return BuiltEncoder(_trimmed(model, family, kept).train(), grown, family, unused)


def _grow_vocabulary(model: PreTrainedModel, size: int) -> None:
    """Grows the word embeddings to `size` rows; a new row is the mean of the old ones."""
    fixed = "mean_resizing" not in inspect.signature(model.resize_token_embeddings).parameters
    kind = model.config.model_type
    require(not fixed, f"A {kind} model cannot take the {size} pieces of this tokenizer: its vocabulary is fixed.")
    old_size = model.get_input_embeddings().weight.shape[0]
    table = model.resize_token_embeddings(size, mean_resizing=False).weight
    with torch.no_grad():
        table[old_size:] = table[:old_size].mean(dim=0)


def _options(model_class: type) -> dict[str, Any]:
    without_pooler = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    own = getattr(model_class, "_supports_sdpa", False)
    # A class with a table of its own for its attention finds no other name in it.
    attention = ("sdpa", NAME)[getattr(model_class, "_supports_attention_backend", False)] if own else "eager"
    return {"attn_implementation": attention} | ({"add_pooling_layer": False} if without_pooler else {})


def _random(model_class: type, config: PreTrainedConfig) -> Any:
    options = _options(model_class)
    config._attn_implementation = options.pop("attn_implementation")
    failed = f"A {config.model_type} model cannot be built with these dimensions"
    try:
        with quiet(), bounded(_MOST_BYTES, f"{failed}: its weights take more than {_MOST_BYTES / 1e9:,.0f} GB."):
            return model_class(config, **options)
    except UserError:
        raise
    except Exception as error:  # a class may fail in any way over values of a configuration that others wrote
        raise UserError(f"{failed}: {first_line(error)}") from error


def _trimmed(model: nn.Module, family: Family, kept: str | None) -> nn.Module:
    """The part of a model that the row keeps, without unused modules; parameters that no output depends on are frozen."""
    if family.part:
        model = model.get_submodule(family.part)
    for path in family.drop:
        if path != kept:
            drop_module(model, path)
    for name, parameter in model.named_parameters():
        if any(re.search(pattern, name) for pattern in family.unreached):
            parameter.requires_grad_(False)
    return model


def _check_loaded(info: dict[str, Any], weights: str, family: Family, kept: str | None) -> tuple[str, ...]:
    """Refuses missing weights; returns the names of unused ones."""
    prefix = family.part + "." if family.part else ""
    ignored = tuple(f"{prefix}{path}." for path in family.drop if path != kept)
    missing = [key for key in sorted(info["missing_keys"]) if key.startswith(prefix) and not key.startswith(ignored)]
    mismatched = sorted(str(entry[0] if isinstance(entry, tuple) else entry) for entry in info["mismatched_keys"])
    wrong = [name.removeprefix(prefix) for name in missing + mismatched]
    require(
        not wrong,
        f"The weights of {weights} lack parameters of the encoder, or have them in another shape ({shortened(wrong)}): they are "
        "not weights of this model.",
    )
    return tuple(sorted(info["unexpected_keys"]))


def checkpoint_layers(part: nn.Module, around: Callable[..., Any]) -> int:
    """Gradient checkpointing: `around(layer, *inputs)` runs each layer of a tower in training.

    Returns:
        Number of checkpointed layers; without those with batch norms, whose statistics would be updated twice.
    """
    layers = [
        layer
        for layer in part.modules()
        if isinstance(layer, GradientCheckpointingLayer)
        and not any(isinstance(module, nn.BatchNorm2d) for module in layer.modules())
    ]
    for layer in layers:
        layer.gradient_checkpointing, layer._gradient_checkpointing_func = True, around
    return len(layers)
