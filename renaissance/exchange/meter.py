"""METER (Dou et al. 2022): a CLIP or Swin image encoder, RoBERTa or BERT, and co-attention, which is `fusion=separate`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor
from transformers import BertConfig, CLIPVisionConfig, PreTrainedConfig, SwinConfig

from .converted import Converted
from .foreign import ForeignModel
from .key_map import Rules, Unused, rename, with_bias
from .shared_rules import (
    BUFFER,
    HEADS,
    IMAGENET,
    attention_rules,
    bert_rules,
    feed_forward_rules,
    finish_ranking,
    finish_token_types,
    fusion_ends,
    head_count,
    layer_count,
    refuse_incomplete,
    text_config,
    two_tower_settings,
)

NAME = "METER"
CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_OF_CLIPS_TEXT = Unused("of CLIP's text half, which METER does not run")


def _rules() -> Rules:
    yield from bert_rules(r"text_transformer\.", "text_encoder")
    yield from _clip_rules()
    yield from _swin_rules()
    yield from fusion_ends()
    for side in ("text", "image"):
        layer, ours = rf"cross_modal_{side}_layers\.(\d+)", rf"model:fusion.layers.\1.{side}"
        for theirs, name in (("attention", "attention"), ("crossattention", "cross")):
            yield from attention_rules(rf"{layer}\.{theirs}\.self", rf"{layer}\.{theirs}\.output", f"{ours}_{name}")
        yield from feed_forward_rules(rf"{layer}\.intermediate", rf"{layer}\.output", f"{ours}_feed_forward")
    yield from HEADS


def _clip_rules() -> Rules:
    visual, layer, ours = (
        r"vit_model\.visual",
        r"vit_model\.visual\.transformer\.resblocks\.(\d+)",
        r"image_encoder:encoder.layers.\1",
    )
    yield r"vit_model\.positional_embedding", _OF_CLIPS_TEXT
    yield r"vit_model\.(?:ln_final|token_embedding)\..*|vit_model\.(?:text_projection|logit_scale)", _OF_CLIPS_TEXT
    yield rf"{visual}\.proj", Unused("CLIP's projection, which METER does not run")
    yield rf"{visual}\.class_embedding", "image_encoder:embeddings.class_embedding"
    yield rf"{visual}\.positional_embedding", "image_encoder:embeddings.position_embedding.weight"
    yield rf"{visual}\.conv1\.weight", "image_encoder:embeddings.patch_embedding.weight"
    yield from with_bias(rf"{visual}\.ln_pre", "image_encoder:pre_layrnorm")
    yield from with_bias(rf"{visual}\.ln_post", "image_encoder:post_layernorm")
    heads = tuple(f"{ours}.self_attn.{each}_proj" for each in "qkv")
    for kind in ("weight", "bias"):
        yield rf"{layer}\.attn\.in_proj_{kind}", tuple(f"{each}.{kind}" for each in heads)
    yield from with_bias(rf"{layer}\.attn\.out_proj", f"{ours}.self_attn.out_proj")
    for theirs, name in (
        ("ln_1", "layer_norm1"),
        ("ln_2", "layer_norm2"),
        (r"mlp\.c_fc", "mlp.fc1"),
        (r"mlp\.c_proj", "mlp.fc2"),
    ):
        yield from with_bias(rf"{layer}\.{theirs}", f"{ours}.{name}")


def _swin_rules() -> Rules:
    stage, block = r"vit_model\.layers\.(\d+)", r"vit_model\.layers\.(\d+)\.blocks\.(\d+)"
    ours = r"image_encoder:encoder.layers.\1.blocks.\2"
    yield rf"{block}\.(?:attn_mask|attn\.relative_position_index)", BUFFER
    yield from with_bias(r"vit_model\.patch_embed\.proj", "image_encoder:embeddings.patch_embeddings.projection")
    yield from with_bias(r"vit_model\.patch_embed\.norm", "image_encoder:embeddings.norm")
    yield from with_bias(r"vit_model\.norm", "image_encoder:layernorm")
    yield from with_bias(rf"{block}\.norm1", f"{ours}.layernorm_before")
    yield from with_bias(rf"{block}\.norm2", f"{ours}.layernorm_after")
    yield rf"{block}\.attn\.relative_position_bias_table", f"{ours}.attention.self.relative_position_bias_table"
    yield from with_bias(
        rf"{block}\.attn\.qkv", tuple(f"{ours}.attention.self.{each}" for each in ("query", "key", "value"))
    )
    yield from with_bias(rf"{block}\.attn\.proj", f"{ours}.attention.output.dense")
    yield from with_bias(rf"{block}\.mlp\.fc1", f"{ours}.intermediate.dense")
    yield from with_bias(rf"{block}\.mlp\.fc2", f"{ours}.output.dense")
    yield from with_bias(rf"{stage}\.downsample\.norm", r"image_encoder:encoder.layers.\1.downsample.norm")
    yield rf"{stage}\.downsample\.reduction\.weight", r"image_encoder:encoder.layers.\1.downsample.reduction.weight"


def matches(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of a METER."""
    return any(name.startswith("cross_modal_text_layers.") for name in state)


def convert(source: ForeignModel, heads: Mapping[str, int]) -> Converted:
    """A METER as a two-tower.

    Args:
        heads: numbers of attention heads by tower, which no file has; else those of the published sizes.

    Raises:
        UserError: tensors are missing.
    """
    renamed = rename(source.state, _rules())
    text, image, model = (renamed.parts[part] for part in ("text_encoder", "image_encoder", "model"))
    swin = "embeddings.norm.weight" in image
    table = "embeddings.patch_embeddings.projection.weight" if swin else "embeddings.position_embedding.weight"
    needed = {"text_encoder": (text, "embeddings.word_embeddings.weight"), "image_encoder": (image, table)}
    needed["fusion"] = (model, "fusion.layers.0.text_feed_forward.dense.weight")
    refuse_incomplete(source, needed)
    settings = two_tower_settings(source, renamed, heads, "separate", "fusion.layers.0.text_feed_forward.dense.weight")
    config = _swin_config(image) if swin else _clip_config(image, source, heads)
    settings |= {
        "image_size": config.image_size,
        "train_transform_keys": ["imagenet"],
        "val_transform_keys": ["imagenet"],
    }
    finish_token_types(renamed)
    finish_ranking(renamed)
    roberta = len(text["embeddings.token_type_embeddings.weight"]) == 1
    settings["tokenizer"] = "FacebookAI/roberta-base" if roberta else "google-bert/bert-base-uncased"
    towers = {"text_encoder": text_config(BertConfig, text, source, heads), "image_encoder": config}
    return Converted(NAME, towers, renamed, settings, IMAGENET if swin else CLIP)


def _clip_config(state: Mapping[str, Tensor], source: ForeignModel, heads: Mapping[str, int]) -> PreTrainedConfig:
    width, _, patch, _ = state["embeddings.patch_embedding.weight"].shape
    side = math.isqrt(len(state["embeddings.position_embedding.weight"]) - 1)
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=len(state["encoder.layers.0.mlp.fc1.weight"]),
        num_hidden_layers=layer_count(state, "encoder.layers"),
        num_attention_heads=head_count(source, heads, "image_encoder", width),
        image_size=side * patch,
        patch_size=patch,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
    )
    config.final_norm = True
    return config


def _swin_config(state: Mapping[str, Tensor]) -> PreTrainedConfig:
    stages = layer_count(state, "encoder.layers")
    depths = [layer_count(state, f"encoder.layers.{stage}.blocks") for stage in range(stages)]
    tables = [
        state[f"encoder.layers.{stage}.blocks.0.attention.self.relative_position_bias_table"] for stage in range(stages)
    ]
    window = (math.isqrt(len(tables[0])) + 1) // 2
    width, _, patch, _ = state["embeddings.patch_embeddings.projection.weight"].shape
    return SwinConfig(
        image_size=window * patch * 2 ** (stages - 1),
        patch_size=patch,
        embed_dim=width,
        depths=depths,
        num_heads=[table.shape[1] for table in tables],
        window_size=window,
        layer_norm_eps=1e-5,
    )
