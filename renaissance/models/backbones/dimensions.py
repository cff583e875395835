"""What a configuration answers for, as plain values, and how a user's own dimensions are written into one."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import transformers
from huggingface_hub.errors import StrictDataclassFieldValidationError
from packaging.version import Version

from renaissance.core.errors import UserError, printable

from . import remote
from .configs import make_config
from .families import DUAL, FAMILIES, IMAGE, REFUSED, TEXT, Family, Stack

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# The names that configurations use for one dimension; the first that a configuration has is the one.
_MLP_WIDTHS = ("intermediate_size", "encoder_ffn_dim", "d_ff", "hidden_dim", "d_inner", "ffn_dim")
NAMES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size",),
    "num_heads": ("num_attention_heads",),
    "num_layers": ("num_hidden_layers",),
    "mlp_ratio": ("mlp_ratio", *_MLP_WIDTHS),
    "embedding_size": ("embedding_size",),
    "vocab_size": ("vocab_size",),
    "max_text_len": ("max_position_embeddings",),
    "image_size": ("image_size",),
    "patch_size": ("patch_size",),
}
# Lists with one entry a layer, which are cut or repeated when the number of layers is set.
PER_LAYER = ("layer_types", "num_key_value_heads_per_layer")
# A drop rate goes to all of these that a configuration has.
DROP_NAMES = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "dropout_rate",
    "hidden_dropout",
    "hidden_dropout_rate",
    "attention_dropout_rate",
)


@dataclass(frozen=True)
class EncoderDimensions:
    """What a pretrained model answers for; None where it cannot say.

    Attributes:
        name: the id or folder as given.
        model_type: transformers' name of the family.
        modality: "text" or "image".
        mlp_ratio: width of the feed-forward layer / hidden_size.
        max_text_len: most tokens of a text, special tokens included.
        image_size, patch_size: pixels of a square side.
        image_mean, image_std: per channel of a picture in 0..1.
    """

    name: str
    model_type: str
    modality: str
    hidden_size: int
    num_heads: int | None
    num_layers: int | None
    mlp_ratio: float | None
    drop_rate: float | None
    vocab_size: int | None
    embedding_size: int | None
    max_text_len: int | None
    image_size: int | None
    patch_size: int | None
    image_mean: tuple[float, float, float] | None
    image_std: tuple[float, float, float] | None


def family_of(config: PreTrainedConfig, name: str | None = None) -> Family:
    """The row of a configuration's family.

    Raises:
        UserError: the family cannot serve; the sentence gives the reason and families that can.
    """
    kind = config.model_type
    if (row := remote.row_of(config)) is not None:
        return row
    if kind in FAMILIES:
        return FAMILIES[kind]
    refuse_family(kind, name)


def refuse_family(kind: str | None, name: str | None) -> NoReturn:
    """Says why models of a type cannot serve, and which can."""
    kind = printable(kind or "none: its config.json names no model_type")
    what = f"{name} (model type {kind})" if name else f"A model of type {kind}"
    reason = REFUSED.get(kind, "is neither a bidirectional text encoder nor a picture encoder that this program knows")
    raise UserError(f"{what} cannot be a tower: it {reason}; families that can: {_some_families()}.")


def check_modality(config: PreTrainedConfig, name: str, setting: str) -> Family:
    """Refuses a model that cannot serve where it was given.

    Args:
        config: of one tower (after `read_config` took the half).
        setting: "text_encoder", "image_encoder" or "encoder" (one-tower).

    Returns:
        The family's row.

    Raises:
        UserError: the family cannot serve at all, is of the other modality, or has no blocks for a one-tower model; the
            sentence names families that can.
    """
    family = family_of(config, name)
    what = f"{setting}={name} (model type {config.model_type})"
    if setting == "encoder":
        if not isinstance(family.one_tower, Stack):
            raise UserError(
                f"{what} cannot be a one-tower encoder: {family.one_tower}; families that can: {_some_families(Stack)}."
            )
        _check_since(family.one_tower.since, what)
        return family
    wanted = {"text_encoder": TEXT, "image_encoder": IMAGE}[setting]
    if family.modality != wanted:
        other = "image_encoder" if wanted == TEXT else "text_encoder"
        raise UserError(f"{what} is a {family.modality} model: give it as {other}.")
    return family


def class_of(family: Family, config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class of a row's model.

    Raises:
        UserError: the installed transformers does not have it.
    """
    if remote.row_of(config) is not None:
        return remote.class_of_code(config)
    return class_of_transformers(family)


def class_of_transformers(family: Family) -> type[PreTrainedModel]:
    """As `class_of`, of a family whose code is transformers'."""
    model_class = getattr(transformers, family.model, None)
    if model_class is None:
        raise UserError(f"transformers {transformers.__version__} has no {family.model}: install a newer version.")
    return model_class


def _check_since(since: str, what: str) -> None:
    if since and Version(transformers.__version__) < Version(since):
        raise UserError(
            f"{what} cannot be a one-tower encoder with transformers {transformers.__version__}, whose blocks of this "
            f"family take no mask: install transformers>={since}."
        )


def refuse_impossible(config: PreTrainedConfig, name: str) -> None:
    """Refuses sizes below 1 and pictures that are not RGB."""
    if (family := FAMILIES.get(config.model_type)) is None:
        return
    for dimension in NAMES:
        value = None if family.names.get(dimension) == "" else _value(config, family, dimension)
        if value is not None and value < 1 and dimension not in ("max_text_len", "mlp_ratio"):
            raise UserError(f"The configuration of {name} has {dimension}={value}, which is no size of a model.")
    arguments = getattr(config, "model_args", None) or {}
    channels = [getattr(config, key, None) for key in ("num_channels", "in_channels", "in_chans")] + [
        arguments.get("in_chans")
    ]
    if family.modality == IMAGE and (other := [each for each in channels if isinstance(each, int) and each != 3]):
        raise UserError(
            f"{name} reads pictures of another number of channels ({other[0]}) than the 3 of RGB, which this program has."
        )


def half_of(config: PreTrainedConfig, name: str, modality: str | None) -> PreTrainedConfig:
    """The needed half of a text-and-image model's configuration (CLIP, SigLIP ...); any other one as it is.

    Args:
        modality: "text" or "image"; None takes the image half, the one that a one-tower model can be made of.

    Raises:
        UserError: the model has no half of this modality that can serve.
    """
    halves = DUAL.get(config.model_type)
    if halves is None:
        return config
    if (modality or IMAGE) not in halves:
        raise UserError(f"{name} (model type {config.model_type}) brings no {modality} encoder, only one for images.")
    half = copy.deepcopy(getattr(config, halves[modality or IMAGE]))
    if not half.architectures:
        half.architectures = config.architectures
    return half


def encoder_dimensions(
    config: PreTrainedConfig, name: str, image_processor: dict[str, Any] | None = None
) -> EncoderDimensions:
    """Collects what a model answers for.

    Args:
        config: of one tower (after `half_of`).
        image_processor: as `read_image_processor` gives it.
    """
    family = family_of(config, name)
    processor = image_processor or {}
    hidden_size = width_of(config, family)
    text, image = family.modality == TEXT, family.modality == IMAGE
    positions = _value(config, family, "max_text_len") if text else None
    return EncoderDimensions(
        name=name,
        model_type=config.model_type,
        modality=family.modality,
        hidden_size=hidden_size,
        num_heads=_value(config, family, "num_heads"),
        num_layers=_value(config, family, "num_layers"),
        mlp_ratio=_mlp_ratio(config, family, hidden_size),
        drop_rate=next((float(rate) for key in DROP_NAMES if (rate := getattr(config, key, None)) is not None), None),
        vocab_size=_value(config, family, "vocab_size") if text else None,
        embedding_size=_value(config, family, "embedding_size"),
        max_text_len=positions - family.spare_positions if positions and positions > 0 else None,
        image_size=(_value(config, family, "image_size") or processor.get("size")) if image else None,
        patch_size=_value(config, family, "patch_size") if image else None,
        image_mean=tuple(processor["mean"]) if image and processor else None,
        image_std=tuple(processor["std"]) if image and processor else None,
    )


def override_dimensions(
    config: PreTrainedConfig,
    *,
    hidden_size: int | None = None,
    num_heads: int | None = None,
    num_layers: int | None = None,
    mlp_ratio: float | None = None,
    drop_rate: float | None = None,
    embedding_size: int | None = None,
    vocab_size: int | None = None,
    image_size: int | None = None,
    patch_size: int | None = None,
    max_text_len: int | None = None,
) -> PreTrainedConfig:
    """A copy of a configuration with the user's own dimensions; None keeps the family's.

    A change of width keeps the ratio of the feed-forward layer.

    Raises:
        UserError: the family has no such dimension, or heads do not divide the width.
    """
    family = family_of(config)
    config = copy.deepcopy(config)
    old_ratio = _mlp_ratio(config, family, width_of(config, family))
    given = {
        "hidden_size": hidden_size,
        "num_heads": num_heads,
        "num_layers": num_layers,
        "embedding_size": embedding_size,
        "vocab_size": vocab_size,
        "image_size": image_size,
        "patch_size": patch_size,
        "max_text_len": None if max_text_len is None else max_text_len + family.spare_positions,
    }
    for dimension, value in given.items():
        if value is not None:
            name = _name(config, family, dimension)
            _set(config, dimension, name, like(getattr(config, name), value))
    if num_layers is not None:
        for name in PER_LAYER:
            values = getattr(config, name, None)
            if isinstance(values, list | tuple):
                _set(config, "num_layers", name, [values[index % len(values)] for index in range(num_layers)])
    if mlp_ratio is not None or (hidden_size is not None and old_ratio is not None):
        _set_mlp_ratio(config, family, mlp_ratio if mlp_ratio is not None else old_ratio)
    if drop_rate is not None:
        for key in [key for key in DROP_NAMES if getattr(config, key, None) is not None]:
            _set(config, "drop_rate", key, drop_rate)
    _settle_heads(config, family, resized=hidden_size is not None or num_heads is not None)
    return config


def like(old: Any, value: int) -> int | list[int]:
    """`value` in the form of `old`: some configurations write a square side as [height, width]."""
    return [value] * len(old) if isinstance(old, list | tuple) else value


def config_from_dict(
    values: dict[str, Any], *, allow_download: bool = True, trust_remote_code: bool = False
) -> PreTrainedConfig:
    """Rebuilds a tower's configuration from `config.to_dict()`, as a checkpoint holds it; asks nobody but for code.

    Args:
        allow_download, trust_remote_code: see `hub.read_config`; of a model of code of its own.

    Raises:
        UserError: the installed transformers does not have this family, or its code is not trusted.
    """
    if values.get("remote_code"):
        return remote.stored_config(values, trusted=trust_remote_code, allow_download=allow_download)
    family = FAMILIES.get(str(values.get("model_type")))
    if family is None:
        raise UserError(
            f"The checkpoint holds a model of type {values.get('model_type')!r}, which this version does "
            "not know: load it with the version that wrote it."
        )
    config = make_config(values, class_of_transformers(family).config_class, "the checkpoint")
    refuse_impossible(config, "the checkpoint")
    return config


def width_of(config: PreTrainedConfig, family: Family) -> int:
    """Width of the tokens that a tower gives."""
    if callable(family.width):
        return family.width(config)
    value = getattr(config, family.width)
    return value[-1] if isinstance(value, list | tuple) else value


def vocabulary_of(config: PreTrainedConfig, family: Family) -> int:
    """Rows of the word embeddings."""
    return getattr(config, _name(config, family, "vocab_size"))


def set_vocabulary(config: PreTrainedConfig, family: Family, size: int) -> None:
    """Writes the number of rows of the word embeddings."""
    setattr(config, _name(config, family, "vocab_size"), size)


def _name(config: PreTrainedConfig, family: Family, dimension: str) -> str:
    names = (family.names[dimension],) if dimension in family.names else NAMES[dimension]
    for name in names:
        if hasattr(config, name):
            return name
    able = [key for key in NAMES if any(hasattr(config, name) for name in (family.names.get(key), *NAMES[key]) if name)]
    raise UserError(f"A model of type {config.model_type} has no {dimension} to set; it has {', '.join(able)}.")


def _value(config: PreTrainedConfig, family: Family, dimension: str) -> int | None:
    try:
        value = getattr(config, _name(config, family, dimension))
    except UserError:
        return None
    if isinstance(value, list | tuple):
        value = value[0] if value and all(item == value[0] for item in value) else None
    return value if isinstance(value, int) else None


def _mlp_ratio(config: PreTrainedConfig, family: Family, hidden_size: int) -> float | None:
    try:
        name = _name(config, family, "mlp_ratio")
    except UserError:
        return None
    value = getattr(config, name)
    if not isinstance(value, int | float):
        return None
    return value / hidden_size if name in _MLP_WIDTHS else float(value)


def _set_mlp_ratio(config: PreTrainedConfig, family: Family, ratio: float) -> None:
    name = _name(config, family, "mlp_ratio")
    value = round(ratio * width_of(config, family)) if name in _MLP_WIDTHS else ratio
    # Some configurations take whole ratios only, and only as whole numbers.
    _set(config, "mlp_ratio", name, int(value) if value == int(value) else value)


def _set(config: PreTrainedConfig, dimension: str, name: str, value: Any) -> None:
    try:
        setattr(config, name, value)
    except (StrictDataclassFieldValidationError, NotImplementedError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(
            f"{dimension}: a model of type {config.model_type} does not take {name}={value!r}: {reason}"
        ) from error


def _settle_heads(config: PreTrainedConfig, family: Family, resized: bool) -> None:
    heads, width = _value(config, family, "num_heads"), getattr(config, "hidden_size", None)
    if not heads or not isinstance(width, int):
        return
    if width % heads:
        raise UserError(f"num_heads={heads} does not divide hidden_size={width} of the {config.model_type} model.")
    # Some configurations write the width of a head beside the two that decide it.
    for name in ("d_kv", "head_dim"):
        if resized and isinstance(getattr(config, name, None), int):
            setattr(config, name, width // heads)


def _some_families(needs: type = object) -> str:
    """Some families of each modality, all fit for one-tower where `needs` is Stack."""
    fit = {kind: family for kind, family in FAMILIES.items() if isinstance(family.one_tower, needs)}
    some = [
        [kind for kind in familiar if kind in fit]
        for familiar in (
            ("bert", "roberta", "electra", "distilbert", "albert", "deberta-v2", "modernbert"),
            ("vit", "deit", "dinov2", "clip_vision_model", "siglip_vision_model", "swin", "convnext"),
        )
    ]
    return f"{', '.join(some[0])} (text), {', '.join(some[1])} (image); CONFIGURING_MODELS.md lists all"
