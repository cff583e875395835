"""Finds the family of a configuration, and refuses models that cannot be used.

Differences between Hugging Face families are data: one row a model type (`family.py`). A row has the transformers class of the
encoder, the parts of it to keep, and the path of its blocks, if the family can be a one-tower model. The code in the sibling
files knows no family by name; a new family is a new row.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import NoReturn

import transformers
from packaging.version import Version
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from renaissance.core.errors import UserError, printable, require
from renaissance.core.registry import FAMILIES

from . import remote
from .family import IMAGE, TEXT, Family, Stack
from .refused import refusal
from .text_families import TEXT_FAMILIES
from .vision_families import VISION_FAMILIES

for _kind, _row in (TEXT_FAMILIES | VISION_FAMILIES).items():
    _name = CONFIG_MAPPING_NAMES.get(_kind, _kind).replace("Config", "Model")
    FAMILIES.add(_kind, replace(_row, model=_row.model or _name))

_HALVES = {TEXT: "text_config", IMAGE: "vision_config"}
# Text-and-image models: attribute of the configuration for each half. A half is a family of its own above.
DUAL: dict[str, dict[str, str]] = {
    **dict.fromkeys(("align", "blip", "chinese_clip", "clip", "clipseg", "groupvit"), _HALVES),
    **dict.fromkeys(("metaclip_2", "owlv2", "owlvit", "siglip", "siglip2", "tipsv2", "xclip"), _HALVES),
    **dict.fromkeys(("aimv2", "blip-2", "git", "idefics3", "internvl", "smolvlm"), {IMAGE: "vision_config"}),
    "flava": {TEXT: "text_config", IMAGE: "image_config"},
}

# Some that can be one-tower models, too.
_ABLE = (
    "families that can: bert, roberta, electra, distilbert, albert (text), vit, deit, dinov2, clip_vision_model, "
    "siglip_vision_model (image); CONFIGURING_MODELS.md lists all"
)


def family_of(config: PreTrainedConfig, name: str | None = None) -> Family:
    """The row of a configuration's family.

    Raises:
        UserError: the family cannot be used; the sentence gives the reason and families that can.
    """
    row = remote.row_of(config) or FAMILIES.get(config.model_type)
    return row or refuse_family(config.model_type, name)


def refuse_family(kind: str | None, name: str | None) -> NoReturn:
    """Raises the UserError that says why models of a type cannot be used, and which can."""
    kind = printable(kind or "none: its config.json names no model_type")
    raise UserError(f"{name or 'A model'} (model type {kind}) cannot be a tower: it {refusal(kind)}; {_ABLE}.")


def check_modality(config: PreTrainedConfig, name: str, setting: str) -> Family:
    """Refuses a model that cannot be used for the setting that names it.

    Args:
        config: of one tower (after `read_config` took the half).
        setting: "text_encoder", "image_encoder" or "encoder" (one-tower).

    Returns:
        The family's row.

    Raises:
        UserError: the family cannot be used at all, is of the other modality, or has no blocks for a one-tower model; the
            sentence names families that can.
    """
    family = family_of(config, name)
    what, installed = f"{setting}={name} (model type {config.model_type})", transformers.__version__
    if setting == "encoder":
        blocks = family.one_tower
        require(isinstance(blocks, Stack), f"{what} cannot be a one-tower encoder: {blocks}; {_ABLE}.")
        require(
            Version(installed) >= Version(blocks.since),
            f"{what} cannot be a one-tower encoder with transformers {installed}, whose blocks of this family take no mask: "
            f"install transformers>={blocks.since}.",
        )
    elif setting != f"{family.modality}_encoder":
        raise UserError(f"{what} is an encoder of {family.modality}s: give it as {family.modality}_encoder.")
    return family


def class_of(family: Family) -> type[PreTrainedModel]:
    """The class of a family's model.

    Raises:
        UserError: the installed transformers does not have it.
    """
    model_class = getattr(transformers, family.model, None) if isinstance(family.model, str) else family.model
    require(model_class, f"transformers {transformers.__version__} has no {family.model}: install a newer version.")
    return model_class


def sub_config(config: PreTrainedConfig, name: str, modality: str | None) -> PreTrainedConfig:
    """The text or vision configuration of a text-and-image model (CLIP, SigLIP ...); any other configuration unchanged.

    Args:
        modality: "text" or "image"; None takes the image half, the one that a one-tower model can be made of.

    Raises:
        UserError: the model has no half of this modality that can be used.
    """
    if (halves := DUAL.get(config.model_type)) is None:
        return config
    attribute = halves.get(modality or IMAGE)
    require(attribute, f"{name} (model type {config.model_type}) brings no {modality} encoder, only one for images.")
    half = copy.deepcopy(getattr(config, attribute))
    half.architectures = half.architectures or config.architectures
    return half
