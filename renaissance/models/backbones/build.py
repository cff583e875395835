"""Builds a transformers model by its family's row: random or pretrained, without poolers and heads."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from renaissance.core.errors import UserError, first_line

from .bounds import bounded
from .dimensions import class_of, family_of, like, set_vocabulary, vocabulary_of
from .hub import quiet
from .resize import carry_weights
from .weights import read_weights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from .families import Family


class Dropped(nn.Module):
    """Stands where a pooler or head was that nobody reads: hands its input through, has no weights."""

    def forward(self, hidden: Any, *_args: Any, **_kwargs: Any) -> Any:
        """Returns its first argument."""
        return hidden


def build_model(
    config: PreTrainedConfig,
    *,
    weights: str | None,
    allow_download: bool,
    attention: str,
    image_size: int | None = None,
    vocab_size: int | None = None,
    keep: tuple[str, ...] = (),
) -> tuple[nn.Module, PreTrainedConfig, tuple[str, ...]]:
    """Builds a family's encoder in fp32.

    Args:
        config: of one tower. It is not changed.
        weights: id or folder of the pretrained weights; None leaves them random.
        attention: "sdpa" or "eager"; families without sdpa are built eager.
        image_size: pixels; position tables of the pretrained model are resized to it.
        vocab_size: pieces of the tokenizer; a larger one than the model's grows the word embeddings.
        keep: modules of the row's `drop` that are wanted after all.

    Returns:
        The encoder, its configuration (with what was overridden), and the pretrained weights that it leaves out.

    Raises:
        UserError: the family cannot serve, or the weights lack something that the encoder needs.
    """
    family = family_of(config, weights)
    old = copy.deepcopy(config)
    for name, value in family.settings.items():
        setattr(old, name, value)
    new = copy.deepcopy(old)
    if image_size is not None and family.set_size is not None:
        family.set_size(new, image_size)
    elif image_size is not None and not family.any_size:
        new.image_size = like(new.image_size, image_size)
    if vocab_size is not None and weights is None:
        set_vocabulary(new, family, max(vocab_size, vocabulary_of(new, family)))
    model_class = class_of(family, config)
    attention = attention if attention == "eager" or getattr(model_class, "_supports_sdpa", False) else "eager"
    unused: tuple[str, ...] = ()
    if weights is None:
        model = _random(model_class, new, attention)
    else:
        options = _options(model_class) | ({"key_mapping": {family.within: ""}} if family.within else {})
        model, info = read_weights(
            model_class, weights, old, allow_download=allow_download, attention=attention, **options
        )
        unused = _check_loaded(info, weights, family)
        if new.to_dict() != old.to_dict():
            resized = _random(model_class, new, attention)
            with torch.no_grad():
                carry_weights(model, resized, family)
            model = resized
    if vocab_size is not None and vocab_size > vocabulary_of(new, family):
        grow_vocabulary(model, vocab_size)
        set_vocabulary(new, family, vocab_size)
    return _trimmed(model, family, keep).train(), new, unused


def grow_vocabulary(model: PreTrainedModel, size: int) -> None:
    """Grows the word embeddings to `size` rows; a new row is the mean of the old ones.

    Raises:
        UserError: the family fixes its vocabulary.
    """
    if "mean_resizing" not in inspect.signature(model.resize_token_embeddings).parameters:
        raise UserError(
            f"A {model.config.model_type} model cannot take the {size} pieces of this tokenizer: its vocabulary is "
            "fixed."
        )
    old_size = model.get_input_embeddings().weight.shape[0]
    table = model.resize_token_embeddings(size, mean_resizing=False).weight
    with torch.no_grad():
        table[old_size:] = table[:old_size].mean(dim=0)


def _options(model_class: type) -> dict[str, Any]:
    parameters = inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}


def _random(model_class: type, config: PreTrainedConfig, attention: str) -> Any:
    config._attn_implementation = attention
    what = f"A {config.model_type} model"
    try:
        with quiet(), bounded(what):
            return model_class(config, **_options(model_class))
    except UserError:
        raise
    except Exception as error:  # a class may trip over any value of a configuration that others wrote
        raise UserError(f"{what} cannot be built with these dimensions: {first_line(error)}") from error


def _trimmed(model: nn.Module, family: Family, keep: tuple[str, ...]) -> nn.Module:
    """Takes the row's part of a model, without the modules that nobody reads; freezes what no output depends on."""
    if family.part:
        model = model.get_submodule(family.part)
    for path in family.drop:
        if path not in keep:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, Dropped())
    for name, parameter in model.named_parameters():
        if any(re.search(pattern, name) for pattern in family.unreached):
            parameter.requires_grad_(False)
    return model


def _check_loaded(info: dict[str, Any], weights: str, family: Family) -> tuple[str, ...]:
    """Raises where the encoder misses a weight; returns the names of those that it leaves out."""
    prefix = family.part + "." if family.part else ""
    ignored = tuple(path + "." for path in family.drop)
    missing = [
        name.removeprefix(prefix)
        for name in sorted(info["missing_keys"])
        if name.startswith(prefix) and not name.removeprefix(prefix).startswith(ignored)
    ]
    mismatched = sorted(str(entry[0] if isinstance(entry, tuple) else entry) for entry in info["mismatched_keys"])
    for what, names in (("lack", missing), ("have another shape in", mismatched)):
        kind = family.model or "encoder"
        if names:
            raise UserError(
                f"The weights of {weights} {what} {len(names)} of the {kind}'s parameters ({names[0]} ...): "
                "they are not weights of this model."
            )
    return tuple(sorted(info["unexpected_keys"]))


def recompute(part: nn.Module, around: Callable[..., Any]) -> int:
    """Lets `around(layer, *inputs)` run each layer of a tower while it trains.

    Returns:
        How many layers: those that transformers can run so, without those whose batch norms would count everything twice.
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
