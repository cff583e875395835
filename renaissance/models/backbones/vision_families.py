"""The vision families, one row a model type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from renaissance.core.errors import UserError

from .family import IMAGE, Family, Stack

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_RELATIVE = "its blocks hold the places of patches as distances on the grid, where words have none"
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


def _flat(model: str, one_tower: Stack | str, prefix: int = 1, pattern: str = _PARAMETER, **rest: Any) -> Family:
    """A ViT with learned absolute positions behind `prefix` rows of their own."""
    pooling = "first" if prefix else "mean"
    return Family(IMAGE, model, grids={pattern: prefix}, one_tower=one_tower, **{"pooling": pooling} | rest)


def _clip(model: str, one_tower: Stack | str = _CLIP, **rest: Any) -> Family:
    """CLIP's image half: the norm after the blocks is for the pooled token; a tower drops it, as AutoModel does."""
    return _flat(model, one_tower, pattern=_TABLE, drop=("post_layernorm",), **rest)


def _rotary(model: str, **rest: Any) -> Family:
    return Family(IMAGE, model, any_size=True, one_tower=_RELATIVE, **rest)


# Where sizes are lists, one for each stage, a single number says nothing.
_LISTS = dict.fromkeys(("hidden_size", "num_heads", "num_layers", "mlp_ratio", "patch_size"), "")


def _map(model: str, one_tower: str = _CONVOLUTIONS, width: Any = "hidden_sizes", **rest: Any) -> Family:
    """A family whose output is a feature map, mean-pooled."""
    rest = {"pooling": "mean", "names": _LISTS, "any_size": True} | rest
    return Family(IMAGE, model, width=width, one_tower=one_tower, **rest)


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
    """timm's transformers are of one size unless asked to interpolate their positions; its convolutions take any."""
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
    "deit": _flat("DeiTModel", _VIT, prefix=2),
    "dinov2": _flat("Dinov2Model", _DINO, unreached=_MASK_TOKEN),
    "dinov2_with_registers": _flat("Dinov2WithRegistersModel", _DINO, unreached=_MASK_TOKEN),
    "dpt": _flat("DPTModel", _NO_MASK),
    "flava_image_model": _flat(
        "FlavaImageModel", _FLAVA, drop=("pooler",), unreached=_MASK_TOKEN, within=r"^(?:flava\.)?image_model\."
    ),
    "ijepa": _flat("IJepaModel", _VIT, prefix=0),
    "internvl_vision": _flat("InternVLVisionModel", _NO_MASK, within=r"^(?:model\.)?vision_tower\."),
    "pixio": _flat("PixioModel", _VIT, prefix=8),
    "tipsv2_vision_model": _flat("Tipsv2VisionModel", _DINO, unreached=_MASK_TOKEN),
    "vit": _flat("ViTModel", _VIT),
    "vit_msn": _flat("ViTMSNModel", _VIT),
    "yolos": Family(IMAGE, "YolosModel", any_size=True, one_tower="it adds positions inside its blocks"),
    # Image halves of CLIP and its kin.
    "aimv2_vision_model": _flat(
        "Aimv2VisionModel", "its positions are of one image size", 0, _TABLE, drop=("head",), within=_HALF
    ),
    "blip_vision_model": _flat("BlipVisionModel", _NO_MASK, within=_HALF),
    "blip_2_vision_model": _flat("Blip2VisionModel", _NO_MASK, within=_HALF),
    "chinese_clip_vision_model": _clip("ChineseCLIPVisionModel", within=_HALF),
    "clip_vision_model": _clip("CLIPVisionModel"),
    "clipseg_vision_model": _clip("CLIPSegVisionModel"),
    "git_vision_model": _flat("GitVisionModel", _CLIP, pattern=_TABLE, part="vision_model", within=_GIT),
    "groupvit_vision_model": _flat("GroupViTVisionModel", _NOT_FLAT, prefix=0),
    "idefics3_vision": _flat("Idefics3VisionTransformer", _NO_MASK, prefix=0, pattern=_TABLE, within=_MODEL),
    "metaclip_2_vision_model": _clip("MetaClip2VisionModel"),
    "mlcd_vision_model": _rotary("MLCDVisionModel", drop=("post_layernorm",)),
    "owlv2_vision_model": _clip("Owlv2VisionModel", _OWL, part="vision_model"),
    "owlvit_vision_model": _clip("OwlViTVisionModel", _OWL, part="vision_model"),
    "siglip_vision_model": _flat("SiglipVisionModel", _SIGLIP, prefix=0, pattern=_TABLE, drop=("head",)),
    "smolvlm_vision": _flat("SmolVLMVisionTransformer", _NO_MASK, prefix=0, pattern=_TABLE, within=_MODEL),
    # Flat transformers with relative or rotary positions.
    "beit": _flat("BeitModel", _RELATIVE, tables={r"relative_position_bias_table$": 3}),
    "data2vec-vision": _flat("Data2VecVisionModel", _RELATIVE, tables={r"relative_position_bias_table$": 3}),
    "dinov3_vit": _rotary("DINOv3ViTModel", unreached=_MASK_TOKEN),
    "sapiens2": _rotary("Sapiens2Model", unreached=_MASK_TOKEN),
    # Hierarchical transformers.
    "cvt": _map("CvtModel", _NOT_FLAT, "embed_dim"),
    "donut-swin": _map("DonutSwinModel", _NOT_FLAT, "hidden_size"),
    "focalnet": _map("FocalNetModel", _NOT_FLAT, lambda config: config.embed_dim * 2 ** (len(config.depths) - 1)),
    "glpn": _map("GLPNModel", _NOT_FLAT),
    "hiera": _map("HieraModel", _NOT_FLAT, "hidden_size", any_size=False, grids={_PARAMETER: 0}),
    "levit": _map("LevitModel", _NOT_FLAT, any_size=False),
    "maskformer-swin": _map("MaskFormerSwinModel", _NOT_FLAT, "hidden_size"),
    "mobilevit": _map("MobileViTModel", _NOT_FLAT, "neck_hidden_sizes"),
    "mobilevitv2": _map("MobileViTV2Model", _NOT_FLAT, lambda config: int(512 * config.width_multiplier)),
    "poolformer": _map("PoolFormerModel", _NOT_FLAT),
    "pvt": _map("PvtModel", _NOT_FLAT, any_size=False, grids={r"\.3\.position_embeddings$": 1, _PARAMETER: 0}),
    "pvt_v2": _map("PvtV2Model", _NOT_FLAT),
    "segformer": _map("SegformerModel", _NOT_FLAT),
    # w_g weighs tokens by a norm over one number, which is always 1: no gradient.
    "swiftformer": _map("SwiftFormerModel", _NOT_FLAT, "embed_dims", unreached=(r"\.w_g$",)),
    "swin": _map("SwinModel", _NOT_FLAT, "hidden_size"),
    "swinv2": _map("Swinv2Model", _NOT_FLAT, "hidden_size"),
    # Convolutional networks.
    "align_vision_model": _map("AlignVisionModel", width=_efficientnet_width, within=_HALF),
    "bit": _map("BitModel"),
    "convnext": _map("ConvNextModel", drop=("layernorm",)),
    "convnextv2": _map("ConvNextV2Model", drop=("layernorm",)),
    "dinov3_convnext": _map("DINOv3ConvNextModel"),
    "efficientnet": _map("EfficientNetModel", width="hidden_dim"),
    "mobilenet_v1": _map("MobileNetV1Model", width=_mobilenet_v1_width),
    "mobilenet_v2": _map("MobileNetV2Model", width=_mobilenet_v2_width),
    "regnet": _map("RegNetModel"),
    "resnet": _map("ResNetModel"),
    "textnet": _map("TextNetModel"),
    "timm_wrapper": _map("TimmWrapperModel", width=_timm_width, set_size=_timm_size, settings={"do_pooling": False}),
}
