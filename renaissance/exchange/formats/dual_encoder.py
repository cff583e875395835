"""format=dual_encoder: the contrastive vectors of a two-tower as VisionTextDualEncoderModel of transformers, without code.

That class projects the pooled output of each encoder, without a bias, and has no fusion. Ours projects the first (or last) token
twice: v = C (P x + b). So its projection is C P, and the pooled output has to be x + c with P c = b. Encoders pool by

    a linear layer, with tanh (BERT) or what their configuration names (ViT): the identity; tanh(y) is y where y is small
    the token itself behind a final norm (DINOv2, CLIP's text half): c is added to the norm's bias
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
)

from renaissance.core.errors import UserError, require
from renaissance.data.transforms import CenterCrop
from renaissance.models import backbones
from renaissance.models.two_tower import TwoTower
from renaissance.training.image_inputs import transform_of

from .source import ExportSource

FORMAT = "dual_encoder"
_SMALL = 2.0**-14  # of what is shown to a tanh: its error is x^2/3 of that squared
_NORMS = (
    "layernorm",
    "final_layer_norm",
    "text_model.final_layer_norm",
    "vision_model.post_layernorm",
    "post_layernorm",
)
_ABLE = "those of BERT, RoBERTa, ViT, DeiT, DINOv2 and CLIP's text half can"


@torch.no_grad()
def write(source: ExportSource, folder: Path) -> list[str]:
    """Writes the files into a folder; returns what to tell.

    Raises:
        UserError: the class cannot hold the model.
    """
    model, image_processor = needed(source, FORMAT), center_crop(source, FORMAT)
    itc = source.heads["itc"]
    towers = {side: _pooled(model, side) for side in ("text", "image")}
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        towers["image"][0].config, towers["text"][0].config, projection_dim=itc.text.out_features
    )
    made = VisionTextDualEncoderModel(config, vision_model=towers["image"][0], text_model=towers["text"][0])
    made.text_projection.weight.copy_(itc.text.weight @ model.text_projection.weight / towers["text"][1])
    made.visual_projection.weight.copy_(itc.image.weight @ model.image_projection.weight / towers["image"][1])
    made.logit_scale.copy_(itc.log_scale)
    inputs = source.inputs()
    found = made.eval()(**{name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")})
    for side, vectors in zip(("text", "image"), vectors_of(source), strict=True):
        source.refuse_difference(found[f"{side}_embeds"], vectors, FORMAT)
    made.save_pretrained(folder)
    VisionTextDualEncoderProcessor(image_processor, source.resolved.tokenizer).save_pretrained(folder)
    source.classes = ["VisionTextDualEncoderModel"]
    source.loading = (
        "```python\nfrom transformers import VisionTextDualEncoderModel, VisionTextDualEncoderProcessor\n\n"
        f'model = VisionTextDualEncoderModel.from_pretrained("{folder.name}")\n'
        f'processor = VisionTextDualEncoderProcessor.from_pretrained("{folder.name}")\n```'
    )
    return ["the contrastive vectors alone: fusion and other heads have no place in VisionTextDualEncoderModel"]


def needed(source: ExportSource, format: str) -> TwoTower:
    """The model, where it has the contrastive head. Raises UserError where it has none, or is no two-tower."""
    require_contrastive(source, format)
    two = isinstance(source.model, TwoTower)
    require(
        two,
        f"format={format} needs a two-tower: one-tower models have no encoders of their own; give format=transformers.",
    )
    return source.model


def require_contrastive(source: ExportSource, format: str) -> None:
    """Refuses a model without the contrastive head."""
    there = ", ".join(source.heads) or "none"
    lack = f"format={format} needs a head of contrastive learning (itc), and load_path={source.path} has {there}."
    require("itc" in source.heads, lack)


def vectors_of(source: ExportSource) -> list[Tensor]:
    """The contrastive vectors of the probe's texts and images, (2,256) each."""
    text, image = source.probe()
    model, itc = source.model, source.heads["itc"]
    tokens = {"text": model.embed_text(text), "image": model.embed_image(image)}
    return [itc.vectors(model.unimodal(each, side), side) for side, each in tokens.items()]


def center_crop(source: ExportSource, format: str) -> CLIPImageProcessor:
    """transformers' processor for the short side and the centre, as in training but for rounding."""
    image, side = source.stored.image, transform_of(source.resolved.settings, "val").image_size
    plain = is_cropped(source)
    require(plain, f"format={format} needs images that are cropped to a square, in RGB; give format=transformers.")
    return CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=image["mean"],
        image_std=image["std"],
    )


def is_cropped(source: ExportSource) -> bool:
    """Whether the model's images are what `center_crop` makes: squares, in RGB."""
    return type(transform_of(source.resolved.settings, "val")) is CenterCrop and not source.stored.image.get("channels")


def _pooled(model: TwoTower, side: str) -> tuple[Any, float]:
    """A tower as a whole model of transformers whose pooled output is s (x + c), and s."""
    tower, projection = getattr(model, f"{side}_tower"), getattr(model, f"{side}_projection")
    family, config = backbones.family_of(tower.config), copy.deepcopy(tower.config)
    named = hasattr(config, "pooler_act")
    if named:
        config.pooler_act = "linear"
    whole = None if family.part or not isinstance(family.model, str) else backbones.class_of(family)(config)
    dense = getattr(getattr(whole, "pooler", None), "dense", None)
    norm = next((whole.get_submodule(path) for path in _NORMS if _has(whole, path)), None)
    if not isinstance(dense, nn.Linear) and not isinstance(norm, nn.LayerNorm):
        raise UserError(
            f"format={FORMAT}: the pooled output of a {config.model_type} model cannot be its {tower.pooling} token; {_ABLE}: "
            "give format=transformers."
        )
    whole.load_state_dict(tower.model.state_dict(), strict=False)
    shift = _shift(projection, side)
    if isinstance(dense, nn.Linear):
        scale = 1.0 if named else _SMALL
        dense.weight.copy_(torch.eye(len(dense.weight)) * scale)
        dense.bias.copy_(shift * scale)
        return whole, scale
    norm.bias += shift
    return whole, 1.0


def _shift(projection: nn.Linear, side: str) -> Tensor:
    """c with P c = b: what added to a token makes up for the bias of its projection."""
    weight, bias = projection.weight.double(), projection.bias.double()
    shift = torch.linalg.lstsq(weight, bias.unsqueeze(1), driver="gelsd").solution.squeeze(1)
    width, inner = weight.shape
    require(
        (weight @ shift - bias).abs().max() < 1e-5,
        f"format={FORMAT}: the {side} encoder is narrower ({inner}) than its projection ({width}), whose bias then has no place; "
        "give format=transformers or format=sentence_transformers.",
    )
    return shift.float()


def _has(model: nn.Module | None, path: str) -> bool:
    return model is not None and any(name == path for name, _ in model.named_modules())
