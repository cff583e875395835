"""Reads how a model's image processor normalises pixels."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import PreTrainedConfig
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from renaissance.core.errors import require
from renaissance.core.untrusted import expect, finite, read_json, short

from .families import DUAL, family_of
from .family import IMAGE
from .hub import find_file, is_family

IMAGE_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
MOST_PIXELS = 8192  # of a side
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("do_rescale", "do_normalize", "do_flip_channel_order", "rescale_offset", "include_top"), bool),
    "rescale_factor": float,
    **dict.fromkeys(("image_mean", "image_std"), float | list[float]),
}
_DEFAULTS = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}


def read_image_processor(
    name: str, config: PreTrainedConfig | None = None, *, allow_download: bool = True, notes: list[str] | None = None
) -> dict[str, Any] | None:
    """Reads size, mean and standard deviation of a model's images.

    Args:
        name: as for `read_config`.
        config: of the model; the defaults of its family's image processor complete the file.
        notes: gets a line if nothing gives a mean.

    Returns:
        {"mean": 3 floats, "std": 3 floats, "size": pixels of the square side or None} for RGB pixels in 0..1, with
        {"channels": [2, 1, 0]} if the model takes BGR; None for a text model, and if neither a file nor the family has a mean.

    Raises:
        UserError: the file is damaged, or needs a transform that is not supported.
    """
    if is_family(name) or (config is not None and family_of(config).modality != IMAGE):
        return None
    is_timm = config is not None and config.model_type == "timm_wrapper"
    pixels = _of_timm(name, allow_download) if is_timm else _of_files(name, config, allow_download)
    if pixels is None and notes is not None:
        notes.append(f"{name} does not say how it wants its images: mean and deviation 0.5 are taken")
    return pixels


def _of_files(name: str, config: PreTrainedConfig | None, allow_download: bool) -> dict[str, Any] | None:
    for file in IMAGE_PROCESSOR_FILES:
        if (path := find_file(name, file, allow_download=allow_download)) is None:
            continue
        what = f"{file} of {name}"
        values = read_json(path, dict[str, Any], what)
        values = expect(values.get("image_processor", values), dict[str, Any], f"image_processor in {what}")
        if (pixels := _pixels(values, _processor_class(values, config), what)) is not None:
            return pixels | {"size": _side(values.get("crop_size"), what) or _side(values.get("size"), what)}
    return None


def _processor_class(values: dict[str, Any], config: PreTrainedConfig | None) -> type | None:
    """The image processor class whose defaults complete a file: the one that it names, or that of the family."""
    given = values.get("image_processor_type") or values.get("feature_extractor_type")
    names = [given.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")] if isinstance(given, str) else []
    if config is not None:
        kinds = [config.model_type, *(kind for kind in DUAL if config.model_type.startswith(f"{kind}_"))]
        for backends in (IMAGE_PROCESSOR_MAPPING_NAMES.get(kind) for kind in kinds):
            names += [each for each in (backends.values() if isinstance(backends, dict) else backends or ()) if each]
    classes = (getattr(transformers, each, None) for each in names if each.isidentifier() and "ImageProcessor" in each)
    return next((each for each in classes if isinstance(each, type)), None)


def _pixels(values: dict[str, Any], processor: type | None, what: str) -> dict[str, Any] | None:
    """Mean and standard deviation for pixels in 0..1 that equal the rescaling and normalisation of a file."""

    def field(key: str) -> Any:
        if values.get(key) is None:
            return getattr(processor, key, None if processor is not None else _DEFAULTS.get(key))
        return expect(values[key], _TYPES[key], f"{key} in {what}")

    def per_channel(key: str) -> list[float]:
        """One number a channel; a single number counts for all, as in torchvision."""
        numbers = field(key) if isinstance(field(key), list) else [field(key)]
        require(len(numbers) in (1, 3), f"{key} in {what} has {len(numbers)} numbers; images have 3 channels.")
        return [float(each) for each in numbers] * (3 // len(numbers))

    factor = field("rescale_factor") if field("do_rescale") else 1.0
    factor = 1 / 255 if factor is None else factor
    offset = 1.0 if field("do_rescale") and hasattr(processor, "rescale_offset") and field("rescale_offset") else 0.0
    mean, std = [0.0] * 3, [1.0] * 3
    # Only MobileViT's reverses channels, and it normalises nothing whatever its file says.
    flips = processor is not None and processor.__name__.startswith("MobileViT")
    reverse = field("do_flip_channel_order") and (processor is None or hasattr(processor, "do_flip_channel_order"))
    require(flips or not reverse, f"{what} has do_flip_channel_order, which is applied for MobileViT alone.")
    if field("do_normalize") and not flips:
        if field("image_mean") is None or field("image_std") is None:
            return None
        mean, std = per_channel("image_mean"), per_channel("image_std")
    elif processor is None and "do_normalize" not in values:
        return None
    if hasattr(processor, "include_top") and field("include_top"):  # EfficientNet divides once more
        std = [one * other for one, other in zip(std, per_channel("image_std"), strict=True)]
    scale = 255 * max(factor, 1e-12)
    mean, std = [(each + offset) / scale for each in mean], [each / scale for each in std]
    require(
        factor > 0 and all(1e-6 < each < 1e6 for each in std) and all(abs(each) < 1e6 for each in mean),
        f"{what} has rescale_factor={factor:g} and image_std={field('image_std')}, which makes no pixels: give both above 0.",
    )
    return {"mean": mean, "std": std} | ({"channels": [2, 1, 0]} if reverse else {})


def _of_timm(name: str, allow_download: bool) -> dict[str, Any] | None:
    """Mean, standard deviation and size of the config.json of a timm model."""
    path = find_file(name, "config.json", allow_download=allow_download)
    values = {} if path is None else read_json(path, dict[str, Any], f"config.json of {name}")
    what = f"pretrained_cfg in config.json of {name}"
    timm = expect(values.get("pretrained_cfg") or {}, dict[str, Any], what)
    if not {"mean", "std"} <= timm.keys():
        return None
    channels, *sides = expect(timm.get("input_size") or [3], list[int], f"input_size in {what}")
    require(channels == 3, f"{name} reads images of another number of channels ({channels}) than the 3 of RGB.")
    return _pixels({"image_mean": timm["mean"], "image_std": timm["std"]}, None, what) | {"size": _side(sides, what)}


def _side(size: Any, what: str) -> int | None:
    """Side of a square image in pixels, from any of the formats of image processors."""
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    elif isinstance(size, list):
        size = size[0] if size else None
    allowed = f"give a model for images of 1 to {MOST_PIXELS} pixels"
    require(not size or (finite(size) and 1 <= size <= MOST_PIXELS), f"{what} has a size of {short(size)}; {allowed}.")
    return int(size) if size else None
