"""A tiny configuration of every family, to build in milliseconds what a user builds from the Hub."""

from __future__ import annotations

from typing import Any

import transformers

from renaissance.core.errors import UserError
from renaissance.models import backbones
from renaissance.models.backbones.families import FAMILIES, IMAGE, TEXT

SIDE = 32  # pixels of an image's side

BERT = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
ROBERTA = BERT | {"max_position_embeddings": 42, "pad_token_id": 1}
CLIP_TEXT = BERT | {"bos_token_id": 2, "eos_token_id": 3}
ROTARY = BERT | {"bos_token_id": 2, "eos_token_id": 3, "num_key_value_heads": 2, "head_dim": 8}
BART = {
    "vocab_size": 64,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
T5 = {
    "vocab_size": 64,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "pad_token_id": 0,
}
XLM = {
    "vocab_size": 64,
    "emb_dim": 16,
    "n_layers": 2,
    "n_heads": 2,
    "max_position_embeddings": 40,
    "pad_index": 2,
    "pad_token_id": 2,
    "n_langs": 1,
}
SMALL: dict[str, dict[str, Any]] = {
    "albert": BERT | {"embedding_size": 8},
    "bart": BART,
    "bigbird_pegasus": BART,
    "blenderbot": BART,
    "blenderbot-small": BART,
    "distilbert": {"vocab_size": 64, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}
    | {"max_position_embeddings": 40},
    "electra": BERT | {"embedding_size": 8},
    "esm": BERT | {"mask_token_id": 5, "pad_token_id": 1, "position_embedding_type": "rotary"},
    "eurobert": ROTARY,
    "flaubert": XLM,
    "fsmt": {
        "langs": ["en", "de"],
        "src_vocab_size": 64,
        "tgt_vocab_size": 64,
        **{key: value for key, value in BART.items() if key != "vocab_size"},
    },
    "gte": ROTARY,
    "jina_embeddings_v3": ROTARY,
    "longformer": ROBERTA | {"attention_window": 16},
    "longt5": T5,
    "luke": ROBERTA | {"entity_vocab_size": 8, "entity_emb_size": 8},
    "m2m_100": BART,
    "marian": BART | {"decoder_vocab_size": 64, "pad_token_id": 1},
    "markuplm": ROBERTA
    | {"max_xpath_tag_unit_embeddings": 8, "max_xpath_subs_unit_embeddings": 8, "tag_pad_id": 7, "subs_pad_id": 7}
    | {"xpath_unit_hidden_size": 4, "max_depth": 4},
    "mbart": BART,
    "modernbert": ROTARY | {"cls_token_id": 2, "sep_token_id": 3, "local_attention": 8},
    "mpnet": ROBERTA,
    "mt5": T5,
    "mvp": BART,
    "nomic_bert": ROTARY,
    "pegasus": BART,
    "plbart": BART,
    "prophetnet": {
        "vocab_size": 64,
        "hidden_size": 16,
        "num_encoder_layers": 2,
        "num_decoder_layers": 1,
        "num_encoder_attention_heads": 2,
        "num_decoder_attention_heads": 2,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24,
        "max_position_embeddings": 40,
    },
    "rembert": BERT | {"input_embedding_size": 8, "output_embedding_size": 8},
    "roc_bert": BERT
    | {"pronunciation_vocab_size": 8, "shape_vocab_size": 8, "pronunciation_embed_dim": 8, "shape_embed_dim": 8},
    "roformer": BERT | {"embedding_size": 8},
    "squeezebert": BERT
    | {"embedding_size": 16}
    | {f"{name}_groups": 2 for name in ("q", "k", "v", "post_attention", "intermediate", "output")},
    "switch_transformers": T5 | {"num_experts": 2, "expert_capacity": 64},
    "t5": T5,
    "tapas": BERT | {"type_vocab_sizes": [3, 8, 8, 2, 8, 8, 4]},
    "umt5": T5,
    "xlm": XLM,
    "xlnet": {"vocab_size": 64, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24, "pad_token_id": 5},
    "xlm-roberta-xl": ROBERTA,
    "xmod": ROBERTA | {"languages": ["en_XX", "de_DE"], "default_language": "en_XX"},
}
SMALL |= {
    kind: ROBERTA
    for kind in (
        "camembert",
        "data2vec-text",
        "ibert",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
    )
}
SMALL |= {kind: CLIP_TEXT for kind in FAMILIES if kind.endswith("_text_model") and FAMILIES[kind].causal}

VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": SIDE,
    "patch_size": 8,
}
DINO = {key: value for key, value in VIT.items() if key != "intermediate_size"} | {"mlp_ratio": 2}
STAGES = {"hidden_sizes": [8, 8, 12, 16], "depths": [1, 1, 1, 1]}
PYRAMID = STAGES | {"num_attention_heads": [1, 1, 2, 2], "mlp_ratios": [2, 2, 2, 2]}
SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "patch_size": 4, "image_size": SIDE}
EFFICIENT = {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128, "image_size": 64}

SMALL |= {
    "align_vision_model": EFFICIENT,
    "beit": VIT | {"use_relative_position_bias": True, "out_indices": [1]},
    "bit": STAGES | {"embedding_size": 8, "num_groups": 4},
    "convnext": STAGES | {"image_size": 64},
    "convnextv2": STAGES | {"image_size": 64},
    "cvt": {"embed_dim": [8, 12, 16], "depth": [1, 2, 3], "num_heads": [1, 2, 2], "drop_path_rate": [0.0, 0.0, 0.0]},
    "data2vec-vision": VIT | {"use_relative_position_bias": True},
    "dinov2": DINO,
    "dinov2_with_registers": DINO | {"num_register_tokens": 2},
    "dinov3_convnext": STAGES | {"image_size": 64},
    "dinov3_vit": VIT | {"num_register_tokens": 2},
    "donut-swin": SWIN,
    "dpt": VIT | {"backbone_out_indices": [0, 0, 1, 1], "neck_hidden_sizes": [8, 8, 8, 8]},
    "efficientnet": EFFICIENT,
    "focalnet": {
        "embed_dim": 8,
        "depths": [1, 1],
        "focal_levels": [2, 2],
        "focal_windows": [3, 3],
        "hidden_sizes": [8, 16],
    }
    | {"patch_size": 4, "image_size": SIDE},
    "glpn": PYRAMID,
    "groupvit_vision_model": VIT
    | {"depths": [1, 1], "num_group_tokens": [4, 0], "num_output_groups": [4, 2], "num_hidden_layers": 2}
    | {"hidden_size": 128},
    "hiera": {"embed_dim": 8, "depths": [1, 1, 1], "num_heads": [1, 2, 2], "image_size": [64, 64], "num_query_pool": 2}
    | {"masked_unit_size": [4, 4], "query_stride": [2, 2]},
    "levit": {"hidden_sizes": [16, 24, 32], "depths": [1, 1, 1], "num_attention_heads": [2, 2, 2], "key_dim": [4, 4, 4]}
    | {"image_size": 128},
    "maskformer-swin": SWIN,
    "mobilenet_v1": {"depth_multiplier": 0.05, "min_depth": 8, "image_size": 64},
    "mobilenet_v2": {"depth_multiplier": 0.1, "finegrained_output": False, "image_size": 64},
    "mobilevit": {"hidden_sizes": [16, 16, 16], "neck_hidden_sizes": [8, 8, 8, 8, 16, 16, 16], "num_attention_heads": 2}
    | {"image_size": 128},
    "mobilevitv2": {"width_multiplier": 0.25, "n_attn_blocks": [1, 1, 1], "image_size": 128},
    "pixio": DINO | {"n_cls_tokens": 8},
    "poolformer": STAGES,
    "pvt": PYRAMID | {"image_size": 64},
    "pvt_v2": PYRAMID | {"image_size": 64},
    "regnet": STAGES | {"embedding_size": 8, "groups_width": 4},
    "resnet": STAGES | {"embedding_size": 8},
    "sapiens2": VIT | {"num_key_value_heads": 2, "num_register_tokens": 2},
    "segformer": PYRAMID,
    "swiftformer": {"embed_dims": [8, 8, 12, 16], "depths": [1, 1, 1, 1], "image_size": 64},
    "swin": SWIN,
    "swinv2": SWIN,
    "textnet": {"stem_out_channels": 8, "hidden_sizes": [8, 8, 8, 16, 16], "image_size": [64, 64]},
    "timm_wrapper": {
        "architecture": "vit_tiny_patch16_224",
        "model_args": {"img_size": SIDE, "embed_dim": 16, "depth": 2, "num_heads": 2},
    },
    "tipsv2_vision_model": DINO | {"num_register_tokens": 2},
    "yolos": VIT | {"image_size": [SIDE, SIDE], "num_detection_tokens": 3},
}


INSTALLED = [kind for kind, family in FAMILIES.items() if hasattr(transformers, family.model)]


def can_be_one_tower(kind: str) -> bool:
    """True where `check_modality` lets a family through as encoder= with the installed transformers."""
    try:
        backbones.check_modality(small_config(kind), kind, "encoder")
    except UserError:
        return False
    return True


def small_config(kind: str) -> transformers.PreTrainedConfig:
    """A tiny configuration of a family."""
    family = FAMILIES[kind]
    default = BERT if family.modality == TEXT else VIT
    return getattr(transformers, family.model).config_class(**SMALL.get(kind, default))


def picture_side(config: transformers.PreTrainedConfig) -> int:
    """Pixels of the side of an image that suits a tiny configuration."""
    size = getattr(config, "image_size", SIDE if config.model_type == "timm_wrapper" else 64)
    return size[0] if isinstance(size, list | tuple) else size


# Models of two halves, from the tiny halves above, with the module that holds each half.
DUALS: dict[str, dict[str, str]] = {
    "aimv2": {IMAGE: "vision_model"},
    "align": {TEXT: "text_model", IMAGE: "vision_model"},
    "blip": {TEXT: "text_model", IMAGE: "vision_model"},
    "chinese_clip": {TEXT: "text_model", IMAGE: "vision_model"},
    "clip": {TEXT: "text_model", IMAGE: "vision_model"},
    "clipseg": {TEXT: "text_model", IMAGE: "vision_model"},
    "flava": {TEXT: "text_model", IMAGE: "image_model"},
    "groupvit": {TEXT: "text_model", IMAGE: "vision_model"},
    "metaclip_2": {TEXT: "text_model", IMAGE: "vision_model"},
    "owlv2": {TEXT: "text_model", IMAGE: "vision_model"},
    "owlvit": {TEXT: "text_model", IMAGE: "vision_model"},
    "siglip": {TEXT: "text_model", IMAGE: "vision_model"},
    "siglip2": {TEXT: "text_model"},
    "tipsv2": {TEXT: "text_model", IMAGE: "vision_model"},
    "xclip": {TEXT: "text_model"},
    "blip-2": {IMAGE: "vision_model"},
    "git": {IMAGE: "image_encoder"},
    "idefics3": {IMAGE: "vision_model"},
    "internvl": {IMAGE: "vision_tower"},
    "smolvlm": {IMAGE: "vision_model"},
}

# The other half or the rest of such a model, where it is of a family that no tower is made of.
REST: dict[str, dict[str, Any]] = {
    "aimv2": {"text_config": CLIP_TEXT},
    "blip-2": {
        "text_config": BERT | {"model_type": "opt", "ffn_dim": 24, "word_embed_proj_dim": 16},
        "qformer_config": BERT | {"encoder_hidden_size": 16},
        "num_query_tokens": 2,
    },
    "git": BERT,
    "idefics3": {"text_config": ROTARY | {"model_type": "llama"}},
    "internvl": {"text_config": ROTARY | {"model_type": "qwen2"}},
    "siglip2": {"vision_config": VIT | {"num_patches": 16}},
    "smolvlm": {"text_config": ROTARY | {"model_type": "llama"}},
    "xclip": {
        "vision_config": VIT | {"mit_hidden_size": 16, "mit_intermediate_size": 24, "mit_num_attention_heads": 2}
    },
}

# Families that are refused because they read padding, to see that they still do.
LONG = BERT | {"max_position_embeddings": 64}
READ_PADDING: dict[str, tuple[str, dict[str, Any]]] = {
    "canine": (
        "CanineModel",
        LONG | {"downsampling_rate": 4, "local_transformer_stride": 16, "num_hash_buckets": 64},
    ),
    "convbert": ("ConvBertModel", LONG | {"embedding_size": 16, "head_ratio": 1, "conv_kernel_size": 3}),
    "fnet": ("FNetModel", LONG),
    "funnel": (
        "FunnelModel",
        {"vocab_size": 64, "block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 16, "n_head": 2, "d_head": 8},
    ),
    "mobilebert": (
        "MobileBertModel",
        LONG | {"embedding_size": 16, "true_hidden_size": 16, "intra_bottleneck_size": 16},
    ),
    "nystromformer": ("NystromformerModel", LONG),
    "yoso": ("YosoModel", LONG | {"use_expectation": True, "hash_code_len": 4}),
}
