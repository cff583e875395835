"""Normalised pixels are those of each family's own image processor in transformers, or the model is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from families import FAMILIES, small_config
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from renaissance.core.errors import UserError
from renaissance.core.types import ImageInput
from renaissance.models import backbones
from renaissance.models.backbones.families import DUAL, IMAGE
from renaissance.models.embeddings import Normalize
from tiny_models import same

SIDE = 64
SIZING = ("do_resize", "do_center_crop", "do_pad", "do_thumbnail", "do_align_long_axis")
OTHER_MEAN = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
VARIANTS = {
    "as its class says": {},
    "0..255": {
        "do_rescale": False,
        "do_normalize": True,
        "image_mean": [123.7, 116.3, 103.5],
        "image_std": [58.4, 57.1, 57.4],
    },
    "another factor": {"rescale_factor": 1 / 127.5, "do_normalize": True} | OTHER_MEAN,
    "not normalised": {"do_normalize": False} | OTHER_MEAN,
    "its own switches off": {"do_normalize": True, "do_flip_channel_order": False, "include_top": False} | OTHER_MEAN,
    "its own switches on": {"do_normalize": True, "do_flip_channel_order": True, "rescale_offset": True} | OTHER_MEAN,
    "null is absent": {"image_mean": None, "image_std": None, "do_rescale": None, "rescale_factor": None},
}
KINDS = [
    kind for kind, family in FAMILIES.items() if family.modality == IMAGE and kind in IMAGE_PROCESSOR_MAPPING_NAMES
]
# The processors of the family table, each with a model type that has it.
PROCESSORS = {
    name: kind for kind in (*DUAL, *KINDS) if (name := IMAGE_PROCESSOR_MAPPING_NAMES.get(kind, {}).get("torchvision"))
}
CUT_TO_PATCHES = ("Siglip2ImageProcessor", "Idefics3ImageProcessor", "SmolVLMImageProcessor", "GotOcr2ImageProcessor")


def ours(
    values: dict, folder: Path, config: transformers.PreTrainedConfig | None, pixels: torch.Tensor
) -> torch.Tensor:
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    said = backbones.read_image_processor(str(folder), config)
    return Normalize(said["mean"], said["std"], said.get("channels"))(ImageInput(pixels))


@pytest.mark.parametrize("processor", sorted(set(PROCESSORS) - set(CUT_TO_PATCHES)))
def test_pixels_are_those_of_the_familys_own_processor(processor: str, tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (1, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    kind = PROCESSORS[processor]
    for variant in VARIANTS.values():
        given = {key: value for key, value in variant.items() if value is not None}
        target_builder = getattr(transformers, processor)
        if given.get("do_rescale") is False and processor == "DINOv3ViTImageProcessor":
            continue  # refuses uint8 pixels that it does not rescale
        sizing = {key: False for key in SIZING if hasattr(target_builder, key)}
        if processor == "Owlv2ImageProcessor":  # only resizes in its own way
            sizing = {"size": {"height": SIDE, "width": SIDE}}
        theirs = target_builder(**given)(images=[pixels[0]], return_tensors="pt", **sizing)["pixel_values"].float()
        for said in (
            {"image_processor_type": processor},
            {"feature_extractor_type": processor.replace("ImageProcessor", "FeatureExtractor")},
        ):
            same(ours(variant | said, tmp_path, None, pixels), theirs, 1e-5)
        if kind in KINDS:  # the file names no class: the family does
            same(
                ours(variant | {"size": 32}, tmp_path, small_config(kind), pixels),
                theirs,
                1e-5,
            )


def test_timms_pixels_are_those_of_its_configuration(tmp_path: Path) -> None:
    said = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 96, 96]}
    values = {"architecture": "resnet18", "num_classes": 2, "pretrained_cfg": said}
    (tmp_path / "config.json").write_text(json.dumps(values))
    found = backbones.read_image_processor(str(tmp_path), backbones.read_config(str(tmp_path)))
    assert (found["mean"], found["std"], found["size"]) == (pytest.approx(said["mean"]), pytest.approx(said["std"]), 96)
    (tmp_path / "config.json").write_text(json.dumps(values | {"pretrained_cfg": said | {"input_size": [1, 96, 96]}}))
    with pytest.raises(UserError, match="another number of channels"):
        backbones.read_image_processor(str(tmp_path), backbones.read_config(str(tmp_path)))


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "has to be an object"),
        ("null", "has to be an object"),
        ('{"image_processor": 3}', "has to be an object"),
        ('{"image_mean": [0.5], "image_std": "a"}', "has to be a number or a list"),
        ('{"image_mean": [0.5, 0.5], "image_std": [1, 1, 1]}', "has 2 numbers"),
        ('{"image_mean": [0.5, 0.5, 0.5, 0.5], "image_std": [1, 1, 1]}', "has 4 numbers"),
        ('{"image_mean": [], "image_std": []}', "has 0 numbers"),
        ('{"image_mean": [0, 0, 0], "image_std": [1, 0, 1]}', "makes no pixels"),
        ('{"image_mean": [0, 0, 0], "image_std": [1, -1, 1]}', "makes no pixels"),
        ('{"image_mean": [0, 0, 0], "image_std": [1, NaN, 1]}', "is no number of JSON"),
        ('{"image_mean": [0, 0, 0], "image_std": [1, 1, 1], "rescale_factor": -1}', "makes no pixels"),
        ('{"image_mean": [0, 0, 0], "image_std": [1, 1, 1], "rescale_factor": 0}', "makes no pixels"),
        ('{"image_mean": 0.5, "image_std": 0.5, "do_flip_channel_order": true}', "applied for MobileViT alone"),
        ('{"image_mean": [0, 0, 0], "image_std": [1, 1, 1], "do_rescale": "yes"}', "true or false"),
        ('{"image_mean": 0.5, "image_std": 0.5, "size": "big"}', "a size of"),
        ('{"image_mean": 0.5, "image_std": 0.5, "size": {"height": 1000000000}}', "a size of"),
        ('{"image_mean": 0.5, "image_std": 0.5, "crop_size": [-1]}', "a size of"),
        ("version https://git-lfs.github.com/spec/v1\n", "git-LFS pointer"),
    ],
)
def test_what_cannot_be_applied_is_refused(written: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(written)
    with pytest.raises(UserError, match=sentence):
        backbones.read_image_processor(str(tmp_path))


def test_one_number_is_that_of_all_channels(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5], "image_std": [0.25]}')
    found = backbones.read_image_processor(str(tmp_path))
    assert (found["mean"], found["std"]) == ([0.5] * 3, [0.25] * 3)


@pytest.mark.parametrize("kind", ["vit", "resnet", "swin", "clip_vision_model", "timm_wrapper"])
@pytest.mark.parametrize("channels", [1, 4])
def test_models_of_other_pictures_than_rgb_are_refused(kind: str, channels: int, tmp_path: Path) -> None:
    values = small_config(kind).to_dict()
    values |= {"model_args": {"in_chans": channels}} if kind == "timm_wrapper" else {"num_channels": channels}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="another number of channels"):
        backbones.read_config(str(tmp_path))
