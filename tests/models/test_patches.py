"""Patches that are left out, against models of the same weights whose images have no other patches."""

from __future__ import annotations

import re

import pytest
import torch
from families import INSTALLED, SIDE, can_be_one_tower, picture_side, small_config
from torch import Tensor, nn

from renaissance.core.types import ImageInput
from renaissance.models import backbones
from renaissance.models.backbones.families import FAMILIES, IMAGE
from renaissance.models.embeddings import PatchEmbeddings
from tiny_models import PATCH, WIDTH, one_tower, pictures, same, stirred, texts, two_tower

KEPT = torch.tensor([[0, 5, 6, 15], [3, 4, 9, 10]])  # of 4 x 4 patches
# Families of which patches can be left out, and what the sentence of the others says.
FLAT = {
    *("aimv2_vision_model", "blip_2_vision_model", "blip_vision_model", "chinese_clip_vision_model", "clip_vision_model"),
    *("clipseg_vision_model", "deit", "dinov2", "dinov2_with_registers", "dpt", "flava_image_model", "git_vision_model"),
    *("ijepa", "internvl_vision", "metaclip_2_vision_model", "owlv2_vision_model"),
    *("owlvit_vision_model", "pixio", "siglip_vision_model", "tipsv2_vision_model", "vit", "vit_msn"),
}  # fmt: skip
REASONS = {
    "beit": "distances on the whole grid",
    "data2vec-vision": "distances on the whole grid",
    "dinov3_vit": "distances on the whole grid",
    "sapiens2": "distances on the whole grid",
    "mlcd_vision_model": "distances on the whole grid",
    **dict.fromkeys(("idefics3_vision", "smolvlm_vision"), "a mask of all patches"),
    "yolos": "adds positions inside its blocks",
    "timm_wrapper": "those of timm",
    "groupvit_vision_model": "from stage to stage",
    **dict.fromkeys(("swin", "pvt", "pvt_v2", "hiera", "levit", "cvt", "segformer"), "from stage to stage"),
    **dict.fromkeys(("resnet", "convnext", "convnextv2", "efficientnet", "mobilenet_v2"), "convolutions"),
}


def image_kinds() -> list[str]:
    return [kind for kind in INSTALLED if FAMILIES[kind].modality == IMAGE]


def in_one(pixels: Tensor, kept: Tensor, patch: int) -> Tensor:
    """An image (1,3,H,W) of 2 x 2 patches alone: the four that are kept."""
    patches = pixels.unfold(2, patch, patch).unfold(3, patch, patch).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
    rows = patches[:, kept].unflatten(1, (2, 2)).permute(0, 3, 1, 4, 2, 5)
    return rows.reshape(1, 3, 2 * patch, 2 * patch)


def weights_for(small: nn.Module, whole: nn.Module, kind: str, kept: Tensor) -> None:
    """Gives a model for 2 x 2 patches the weights of one for 4 x 4, with the positions of the four that are kept."""
    state, tables = whole.state_dict(), 0
    for name, own in small.state_dict().items():
        before = next((rows for pattern, rows in FAMILIES[kind].grids.items() if re.search(pattern, name)), None)
        if before is not None:
            rows = state[name].view(-1, state[name].shape[-1])
            state[name] = torch.cat([rows[:before], rows[before:][kept]]).view(own.shape)
            tables += 1
        elif own.shape != state[name].shape:
            state[name] = own  # position_ids
    assert tables == 1
    small.load_state_dict(state)


@torch.no_grad()
@pytest.mark.parametrize("kind", sorted(FLAT))
def test_a_tower_is_that_of_images_without_the_other_patches(kind: str):
    config = small_config(kind)
    whole, small = (stirred(backbones.build_vision_tower(config, weights=None, image_size=side)) for side in (32, 16))
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    found = whole(pixels, KEPT).hidden
    for row, kept in enumerate(KEPT):
        weights_for(small, whole, kind, kept)
        same(found[row], small(in_one(pixels[row : row + 1], kept, 8)).hidden[0], 1e-5)
    every = whole(pixels).hidden
    assert every.shape[1] - found.shape[1] == 12
    same(whole(pixels, torch.arange(16).expand(2, -1)).hidden, every, 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", sorted(kind for kind in FLAT if can_be_one_tower(kind)))
def test_patches_of_a_one_towers_encoder_are_left_out_before_its_blocks(kind: str):
    config = small_config(kind)
    (blocks, whole), (_, small) = (backbones.build_blocks(config, weights=None, image_size=side) for side in (32, 16))
    stirred(whole), stirred(small)
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    found = whole(pixels, None, KEPT)
    assert found.mask is None
    for row, kept in enumerate(KEPT):
        weights_for(small, whole, kind, kept)
        same(found.hidden[row], small(in_one(pixels[row : row + 1], kept, 8)).hidden[0], 1e-5)
    assert blocks(found.hidden, None).shape == found.hidden.shape


@torch.no_grad()
def test_own_patch_embeddings_are_those_of_images_without_the_other_patches():
    whole = stirred(PatchEmbeddings(WIDTH, SIDE, PATCH, 0.1))
    pixels = torch.randn(2, 3, SIDE, SIDE)
    every, found = whole(pixels).hidden, whole(pixels, None, KEPT).hidden
    for row, kept in enumerate(KEPT):
        same(found[row], every[row, [0, *(1 + kept).tolist()]], 1e-6)


def test_every_other_family_says_why_it_needs_all_patches():
    reasons = {}
    for kind in image_kinds():
        config = small_config(kind)
        with torch.device("meta"):
            tower = backbones.build_vision_tower(config, weights=None, image_size=picture_side(config))
        reasons[kind] = tower.needs_all_patches
    assert {kind for kind, reason in reasons.items() if not reason} == FLAT & {*INSTALLED}
    for kind, words in REASONS.items():
        assert words in reasons.get(kind, words), kind


MODELS = {"two-tower": two_tower, "of text": lambda: one_tower("text"), "of ViT": lambda: one_tower("image")}
TABLES = {
    "two-tower": "image_tower.model.embeddings.position_embeddings",
    "of text": "image_embeddings.position",
    "of ViT": "image_embeddings.front.0.position_embeddings",
}
every_model = pytest.mark.parametrize("name", MODELS)


@every_model
def test_a_patch_that_is_left_out_is_seen_by_nobody(name: str):
    """Neither its pixels nor its position reach the fusion; those of the patches that stay do."""
    model, images = MODELS[name](), pictures()._replace(kept=KEPT)
    pixels = images.pixels.clone()
    patches = pixels.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
    for row, kept in enumerate(KEPT.tolist()):
        for patch in {*range(16)} - {*kept}:
            patches[row, :, patch // 4, patch % 4] = 0
    with torch.no_grad():
        one, other = (
            model.fuse(model.embed_text(texts()), model.embed_image(each))
            for each in (images, images._replace(pixels=pixels))
        )
    for left, right in zip(one, other, strict=True):
        same(left, right, 0)
    assert one.image.shape[1] == 1 + 4
    sum(part.square().sum() for part in model.fuse(model.embed_text(texts()), model.embed_image(images))).backward()
    gradient = model.get_parameter(TABLES[name]).grad
    seen = gradient[0].flatten(1).abs().sum(0) if gradient.ndim == 4 else gradient[0, 1:].abs().sum(1)
    assert {*torch.nonzero(seen).flatten().tolist()} == {*KEPT.flatten().tolist()}


@torch.no_grad()
@every_model
def test_the_next_image_shows_all_patches_again(name: str):
    model, images = MODELS[name](), pictures()
    before = model.embed_image(images).hidden
    model.embed_image(images._replace(kept=KEPT))
    same(model.embed_image(images).hidden, before, 0)
    assert model.unimodal_image(images._replace(kept=KEPT)).hidden.shape[1] == 5


def test_a_frozen_tower_leaves_patches_out_too():
    model = two_tower()
    model.freeze(["image_tower"])
    tokens = model.train().embed_image(ImageInput(pictures().pixels, kept=KEPT))
    assert tokens.hidden.shape[1] == 5 and tokens.hidden.requires_grad
