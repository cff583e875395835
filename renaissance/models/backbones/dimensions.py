"""Reads the dimensions of an encoder from its configuration, and writes a user's own into one."""

from __future__ import annotations

import copy
from typing import Any

from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import PreTrainedConfig

from renaissance.core.errors import UserError, first_line, require

from . import remote
from .configs import make_config
from .families import FAMILIES, class_of, family_of
from .family import IMAGE, TEXT, Family

# The names that configurations use for one dimension; the first that a configuration has is the one.
_MLP_WIDTHS = ("intermediate_size", "encoder_ffn_dim", "d_ff", "hidden_dim", "d_inner", "ffn_dim")
NAMES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size",),
    "num_heads": ("num_attention_heads",),
    "num_layers": ("num_hidden_layers",),
    "embedding_size": ("embedding_size",),
    "vocab_size": ("vocab_size",),
    "image_size": ("image_size",),  # pixels of a square side
    "patch_size": ("patch_size",),
    "max_text_len": ("max_position_embeddings",),  # most tokens of a text, special tokens included
    "mlp_ratio": ("mlp_ratio", *_MLP_WIDTHS),  # width of the feed-forward layer / hidden_size
}
_OF_ONE_MODALITY = {"vocab_size": TEXT, "max_text_len": TEXT, "image_size": IMAGE, "patch_size": IMAGE}
# Lists with one entry a layer, which are cut or repeated when the number of layers is set.
_PER_LAYER = ("layer_types", "num_key_value_heads_per_layer")
# A drop rate sets all of these that a configuration has.
_DROP_NAMES = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"),
    *("dropout_rate", "hidden_dropout", "hidden_dropout_rate", "attention_dropout_rate"),
)


def encoder_dimensions(
    config: PreTrainedConfig, name: str | None = None, pixels: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Collects the dimensions of an encoder.

    Args:
        config: of one tower (after `sub_config`).
        name: id or folder, for the sentence of an error.
        pixels: of `read_image_processor`, for an image size that the configuration does not have.

    Returns:
        "drop_rate" and the dimensions of `NAMES`, as users give them; None for those that the family does not have.
    """
    family = family_of(config, name)
    dimensions: dict[str, Any] = {dimension: _value(config, family, dimension) for dimension in NAMES}
    dimensions |= {dimension: None for dimension, only in _OF_ONE_MODALITY.items() if family.modality != only}
    dimensions["hidden_size"] = width_of(config, family)
    dimensions["mlp_ratio"] = _mlp_ratio(config, family)
    dimensions["drop_rate"] = next((float(getattr(config, key)) for key in _drop_names(config)), None)
    positions = dimensions["max_text_len"] or 0
    dimensions["max_text_len"] = positions - family.spare_positions if positions > 0 else None
    if family.modality == IMAGE and pixels:
        dimensions["image_size"] = dimensions["image_size"] or pixels.get("size")
    return dimensions


def override_dimensions(config: PreTrainedConfig, **dimensions: float | None) -> PreTrainedConfig:
    """A copy of a configuration with the user's own dimensions.

    A change of width keeps the ratio of the feed-forward layer.

    Args:
        dimensions: by their names in `encoder_dimensions`; None keeps the configuration's.

    Raises:
        UserError: the family has no such dimension, or heads do not divide the width.
    """
    family, config = family_of(config), copy.deepcopy(config)
    given = {dimension: value for dimension, value in dimensions.items() if value is not None}
    old_ratio = _mlp_ratio(config, family)
    mlp_ratio = given.pop("mlp_ratio", old_ratio if "hidden_size" in given else None)
    drop_rate = given.pop("drop_rate", None)
    for dimension in sorted(given, key=[*NAMES].index):
        name = _required_attribute(config, family, dimension)
        value = given[dimension] + (family.spare_positions if dimension == "max_text_len" else 0)
        old = getattr(config, name)  # some configurations write a square side as [height, width]
        _set(config, dimension, name, [value] * len(old) if isinstance(old, list | tuple) else value)
    for name in _PER_LAYER if "num_layers" in given else ():
        if isinstance(values := getattr(config, name, None), list | tuple):
            repeated = [values[index % len(values)] for index in range(given["num_layers"])]
            _set(config, "num_layers", name, repeated)
    if mlp_ratio is not None:
        name = _required_attribute(config, family, "mlp_ratio")
        value = round(mlp_ratio * width_of(config, family)) if name in _MLP_WIDTHS else mlp_ratio
        # Some configurations take whole ratios only, and only as whole numbers.
        _set(config, "mlp_ratio", name, int(value) if value == int(value) else value)
    for name in _drop_names(config) if drop_rate is not None else ():
        _set(config, "drop_rate", name, drop_rate)
    _check_heads(config, family, resized=bool(given.keys() & {"hidden_size", "num_heads"}))
    return config


def config_from_dict(
    values: dict[str, Any], *, allow_download: bool = True, trust_remote_code: bool = False
) -> PreTrainedConfig:
    """Rebuilds a tower's configuration from `config.to_dict()`, as stored in a checkpoint; only custom code may be downloaded.

    Args:
        allow_download, trust_remote_code: for a model with custom code; see `hub.read_config`.

    Raises:
        UserError: the installed transformers does not have this family, or its code is not trusted.
    """
    if name := values.get("remote_code"):
        require(trust_remote_code, f"The checkpoint holds a model of the code of {name}, {remote.TRUST_NEEDED}.")
        return remote.trusted_config(name, values, values["remote_modality"], allow_download=allow_download)
    kind = values.get("model_type")
    family = FAMILIES.get(str(kind))
    advice = "load it with the version that wrote it"
    require(family, f"The checkpoint holds a model of type {kind!r}, which this version does not know: {advice}.")
    config = make_config(values, class_of(family).config_class, "the checkpoint")
    check_sizes(config, "the checkpoint")
    return config


def check_sizes(config: PreTrainedConfig, name: str) -> None:
    """Refuses sizes below 1 and images that are not RGB."""
    family = family_of(config, name)
    for dimension in [each for each in NAMES if each not in ("max_text_len", "mlp_ratio")]:
        size = _value(config, family, dimension)
        require(
            size is None or size > 0,
            f"The configuration of {name} has {dimension}={size}, which is no size of a model.",
        )
    channels = [getattr(config, key, 3) for key in ("num_channels", "in_channels", "in_chans")]
    channels.append((getattr(config, "model_args", None) or {}).get("in_chans", 3))
    if other := [each for each in channels if isinstance(each, int) and each != 3]:
        raise UserError(f"{name} reads images of another number of channels ({other[0]}) than the 3 of RGB.")


def default_dimensions(config: PreTrainedConfig, values: dict[str, Any]) -> list[str]:
    """The dimensions that a config.json leaves to the defaults of transformers' class, as `name=value`.

    Args:
        values: of the config.json.
    """
    stated = {config.attribute_map.get(key, key) for key in values}
    names = [next((name for name in each if hasattr(config, name)), "") for each in NAMES.values()]
    sizes = {config.attribute_map.get(name, name): getattr(config, name, None) for name in names}
    return [
        f"{key}={value}" for key, value in sizes.items() if key not in stated and isinstance(value, int | list | tuple)
    ]


def width_of(config: PreTrainedConfig, family: Family) -> int:
    """Width of the tokens that a tower gives."""
    if callable(family.width):
        return family.width(config)
    value = getattr(config, family.width)
    return value[-1] if isinstance(value, list | tuple) else value


def _attribute(config: PreTrainedConfig, family: Family, dimension: str) -> str | None:
    """The attribute of a configuration for one of our dimensions; None if it has none."""
    names = (family.names[dimension],) if dimension in family.names else NAMES[dimension]
    return next((name for name in names if hasattr(config, name)), None)


def _required_attribute(config: PreTrainedConfig, family: Family, dimension: str) -> str:
    if (name := _attribute(config, family, dimension)) is None:
        able = ", ".join(each for each in NAMES if _attribute(config, family, each))
        raise UserError(f"A model of type {config.model_type} has no {dimension} to set; it has {able}.")
    return name


def _value(config: PreTrainedConfig, family: Family, dimension: str) -> int | None:
    value = getattr(config, _attribute(config, family, dimension) or "", None)
    if isinstance(value, list | tuple):
        value = value[0] if value and all(item == value[0] for item in value) else None
    return value if isinstance(value, int) else None


def _mlp_ratio(config: PreTrainedConfig, family: Family) -> float | None:
    name = _attribute(config, family, "mlp_ratio")
    value = getattr(config, name or "", None)
    if not isinstance(value, int | float):
        return None
    return value / width_of(config, family) if name in _MLP_WIDTHS else float(value)


def _drop_names(config: PreTrainedConfig) -> list[str]:
    return [name for name in _DROP_NAMES if getattr(config, name, None) is not None]


def _set(config: PreTrainedConfig, dimension: str, name: str, value: Any) -> None:
    try:
        setattr(config, name, value)
    except (StrictDataclassFieldValidationError, NotImplementedError) as error:
        reason = first_line(error.__cause__ or error)
        what = f"a model of type {config.model_type} does not take {name}={value!r}"
        raise UserError(f"{dimension}: {what}: {reason}") from error


def _check_heads(config: PreTrainedConfig, family: Family, resized: bool) -> None:
    heads, width = _value(config, family, "num_heads"), getattr(config, "hidden_size", None)
    # Some configurations write the width of a head beside the two that decide it elsewhere.
    own_widths = [name for name in ("d_kv", "head_dim") if isinstance(getattr(config, name, None), int)]
    if heads and isinstance(width, int) and (resized or not own_widths):
        divides = width % heads == 0
        require(divides, f"num_heads={heads} does not divide hidden_size={width} of the {config.model_type} model.")
        for name in own_widths:
            setattr(config, name, width // heads)
