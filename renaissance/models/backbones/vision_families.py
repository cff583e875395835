"""The vision families, one row a model type. Families that are alike share a row."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from renaissance.core.errors import UserError

from .family import IMAGE, Family, Stack

_RELATIVE = "its blocks know patches by their distances on the whole grid, where words have no place"
_NOT_FLAT = "its width and number of tokens change from stage to stage"
_CONVOLUTIONS = "it is made of convolutions, which need a grid"
_NO_MASK = "its blocks take no mask, so padding of a text would be read"

_VIT = Stack("layers", norm="layernorm")
_DINO = Stack("encoder.layer", norm="layernorm", since="5.18")
_CLIP = Stack("encoder.layers", front=("embeddings", "pre_layrnorm"), norm="post_layernorm")
_SIGLIP = Stack("encoder.layers", norm="post_layernorm")
_OWL = Stack("encoder.layers", front=("embeddings", "pre_layernorm"), norm="post_layernorm")
_FLAVA = Stack("encoder.layer", norm="layernorm")
# What checkpoints of whole models write before the names of a half.
_HALF, _MODEL, _GIT = r"^vision_model\.", r"^(?:model\.)?vision_model\.", r"^(?:git\.)?image_encoder\."
_PARAMETER, _TABLE = r"position_embeddings?$", r"position_embedding\.weight$"
_MASK_TOKEN = (r"mask_token$",)


def _flat(one_tower: Stack | str, prefix: int = 1, pattern: str = _PARAMETER, **rest: Any) -> Family:
    """A ViT with learned absolute positions behind `prefix` rows of their own."""
    pooling = "first" if prefix else "mean"
    return Family(IMAGE, grids={pattern: prefix}, one_tower=one_tower, **{"pooling": pooling} | rest)


def _clip(one_tower: Stack | str = _CLIP, **rest: Any) -> Family:
    """CLIP's image half: the norm after the blocks is for the pooled token; a tower drops it, as AutoModel does."""
    return _flat(one_tower, pattern=_TABLE, drop=("post_layernorm",), **rest)


def _rotary(**rest: Any) -> Family:
    return Family(IMAGE, any_size=True, one_tower=_RELATIVE, **rest)


# Dimensions that differ from stage to stage and so cannot be set by one number.
_LISTS = dict.fromkeys(("hidden_size", "num_heads", "num_layers", "mlp_ratio", "patch_size"), "")


def _map(one_tower: str = _CONVOLUTIONS, width: Any = "hidden_sizes", **rest: Any) -> Family:
    """A family whose output is a feature map, mean-pooled."""
    rest = {"pooling": "mean", "names": _LISTS, "any_size": True} | rest
    return Family(IMAGE, width=width, one_tower=one_tower, **rest)


def _divisible(width: float, divisor: int, least: int) -> int:
    """The width as a multiple of `divisor` that loses at most a tenth (make_divisible of MobileNet and EfficientNet)."""
    rounded = max(least, int(width + divisor / 2) // divisor * divisor)
    return int(rounded + divisor if rounded < 0.9 * width else rounded)


def _mobilenet_v1_width(config: PreTrainedConfig) -> int:
    return max(int(1024 * config.depth_multiplier), config.min_depth)


def _mobilenet_v2_width(config: PreTrainedConfig) -> int:
    if config.finegrained_output and config.depth_multiplier < 1.0:
        return 1280
    return _divisible(round(1280 * config.depth_multiplier), config.depth_divisible_by, config.min_depth)


def _efficientnet_width(config: PreTrainedConfig) -> int:
    width = config.out_channels[-1] * config.width_coefficient
    return _divisible(width, config.depth_divisor, config.depth_divisor)


def _timm_model(config: PreTrainedConfig) -> Any:
    """The timm model of a configuration, without memory for its weights."""
    import timm
    import torch

    with torch.device("meta"):
        return timm.create_model(config.architecture, pretrained=False, num_classes=0, **(config.model_args or {}))


def _timm_width(config: PreTrainedConfig) -> int:
    return _timm_model(config).num_features


def _timm_size(config: PreTrainedConfig, image_size: int) -> None:
    """timm's transformers have one image size unless `dynamic_img_size` is set; its convolutional networks take any."""
    model = _timm_model(config)
    embedding = getattr(model, "patch_embed", None)
    if getattr(embedding, "img_size", None) in (None, (image_size, image_size)):
        return
    config.model_args = {**(config.model_args or {}), "dynamic_img_size": True}
    try:
        _timm_model(config)
    except TypeError:
        own = f"the {embedding.img_size[0]} of timm's {config.architecture}"
        raise UserError(f"image_size={image_size} is not {own}, which takes no other: leave it out.") from None


VISION_FAMILIES: dict[str, Family] = {
    # Flat transformers with learned absolute positions.
    **dict.fromkeys(("dinov2", "dinov2_with_registers", "tipsv2_vision_model"), _flat(_DINO, unreached=_MASK_TOKEN)),
    **dict.fromkeys(("vit", "vit_msn"), _flat(_VIT)),
    "deit": _flat(_VIT, prefix=2),
    "dpt": _flat(_NO_MASK),
    "flava_image_model": _flat(_FLAVA, drop=("pooler",), unreached=_MASK_TOKEN, within=r"^(?:flava\.)?image_model\."),
    "ijepa": _flat(_VIT, prefix=0),
    "internvl_vision": _flat(_NO_MASK, within=r"^(?:model\.)?vision_tower\."),
    "pixio": _flat(_VIT, prefix=8),
    "yolos": Family(IMAGE, any_size=True, one_tower="it adds positions inside its blocks"),
    # Image halves of CLIP and its kin.
    **dict.fromkeys(("blip_vision_model", "blip_2_vision_model"), _flat(_NO_MASK, within=_HALF)),
    **dict.fromkeys(("clip_vision_model", "clipseg_vision_model", "metaclip_2_vision_model"), _clip()),
    **dict.fromkeys(("owlv2_vision_model", "owlvit_vision_model"), _clip(_OWL, part="vision_model")),
    "aimv2_vision_model": _flat("its positions are of one image size", 0, _TABLE, drop=("head",), within=_HALF),
    "chinese_clip_vision_model": _clip(within=_HALF),
    "git_vision_model": _flat(_CLIP, pattern=_TABLE, part="vision_model", within=_GIT),
    "groupvit_vision_model": _flat(_NOT_FLAT, prefix=0),
    "idefics3_vision": _flat(_NO_MASK, 0, _TABLE, within=_MODEL, model="Idefics3VisionTransformer"),
    "mlcd_vision_model": _rotary(drop=("post_layernorm",)),
    "siglip_vision_model": _flat(_SIGLIP, 0, _TABLE, drop=("head",)),
    "smolvlm_vision": _flat(_NO_MASK, 0, _TABLE, within=_MODEL, model="SmolVLMVisionTransformer"),
    # Flat transformers with relative or rotary positions.
    **dict.fromkeys(("beit", "data2vec-vision"), _flat(_RELATIVE, tables={r"relative_position_bias_table$": 3})),
    **dict.fromkeys(("dinov3_vit", "sapiens2"), _rotary(unreached=_MASK_TOKEN)),
    # Hierarchical transformers.
    **dict.fromkeys(("donut-swin", "maskformer-swin", "swin", "swinv2"), _map(_NOT_FLAT, "hidden_size")),
    **dict.fromkeys(("glpn", "poolformer", "pvt_v2", "segformer"), _map(_NOT_FLAT)),
    "cvt": _map(_NOT_FLAT, "embed_dim"),
    "focalnet": _map(_NOT_FLAT, lambda config: config.embed_dim * 2 ** (len(config.depths) - 1)),
    "hiera": _map(_NOT_FLAT, "hidden_size", any_size=False, grids={_PARAMETER: 0}),
    "levit": _map(_NOT_FLAT, any_size=False),
    "mobilevit": _map(_NOT_FLAT, "neck_hidden_sizes"),
    "mobilevitv2": _map(_NOT_FLAT, lambda config: int(512 * config.width_multiplier)),
    "pvt": _map(_NOT_FLAT, any_size=False, grids={r"\.3\.position_embeddings$": 1, _PARAMETER: 0}),
    # w_g weighs tokens by a norm over one number, which is always 1: no gradient.
    "swiftformer": _map(_NOT_FLAT, "embed_dims", unreached=(r"\.w_g$",)),
    # Convolutional networks.
    **dict.fromkeys(("bit", "dinov3_convnext", "regnet", "resnet", "textnet"), _map()),
    **dict.fromkeys(("convnext", "convnextv2"), _map(drop=("layernorm",))),
    "align_vision_model": _map(width=_efficientnet_width, within=_HALF),
    "efficientnet": _map(width="hidden_dim"),
    "mobilenet_v1": _map(width=_mobilenet_v1_width),
    "mobilenet_v2": _map(width=_mobilenet_v2_width),
    "timm_wrapper": _map(
        "its blocks are those of timm, of any kind",
        width=_timm_width,
        set_size=_timm_size,
        settings={"do_pooling": False},
    ),
}
