"""Model types of transformers that cannot be used, and why."""

from __future__ import annotations

from transformers.models.auto import modeling_auto as auto

_VIDEO = "reads videos"
_BOXES = "needs the box of every word on a page"
_PADDING = "reads padding, so that the same text gives other numbers in a longer batch"

REFUSED: dict[str, str] = {
    **dict.fromkeys(("canine", "convbert", "fnet", "funnel", "mobilebert", "nystromformer", "yoso"), _PADDING),
    **dict.fromkeys(("bros", "lilt", "udop"), _BOXES),
    "aimv2_text_model": "drops its causal mask in batches without padding, so that padding changes its numbers",
    "altclip": "stores its halves under other names than their own classes read",
    "dinat": "needs the natten package's CUDA kernels",
    "hgnet_v2": "is a backbone of detectors without a model class of its own",
    "led": "lets most tokens see only a window of the text unless some are named global",
    "mra": "needs a CUDA kernel and returns zeros without it",
    "perceiver": "turns a text into latent vectors: no token of the text is left",
    "pixtral": "reads a list of images of several sizes as one sequence",
    "reformer": "takes texts of one length only (its positions are a grid of axes)",
    "sam_vision_model": "keeps a feature map for segmentation at 1024 pixels",
    "siglip2_vision_model": "reads cut patches with their grid instead of pixels",
    "swin2sr": "gives an image, not tokens",
    "vit_mae": "drops three patches of four at random and shuffles the rest",
    "xclip_vision_model": _VIDEO,
}

# By the classes that transformers has for a model type; no family of our tables gets here.
_BY_CLASS: dict[str, str] = {
    **dict.fromkeys(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "is causal: its tokens see only those before them"),
    **dict.fromkeys(auto.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES, _VIDEO),
}


def refusal(kind: str) -> str:
    """Why models of a type without a family cannot be used."""
    unknown = "is neither a bidirectional text encoder nor an image encoder that this program knows"
    return REFUSED.get(kind) or _BY_CLASS.get(kind, unknown)
