"""Rules for what ViLT, METER and the first program named in the same way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import DeiTConfig, ElectraConfig, PreTrainedConfig, RobertaConfig, ViTConfig

from renaissance.core.errors import require

from .foreign import ForeignModel
from .key_map import Renamed, Rules, Unused, with_bias

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # of pixels
BUFFER = Unused("a buffer that is made anew")
NO_OBJECTIVE = Unused("a head that no task of this program has in this form")
# Layers of a classifier: its number in ours, and its names in theirs.
_CLASSIFIER = {"0": "0|dense", "1": "1|layer_norm", "3": "3|out_proj"}

HEADS = [
    (r"mlm_score\.(?:decoder\.)?bias", "heads:mlm.head.decoder.bias"),
    (r"mlm_score\.decoder\.weight", "heads:mlm.head.decoder.weight"),
    *with_bias(r"mlm_score\.transform\.dense", "heads:mlm.head.transform"),
    *with_bias(r"mlm_score\.transform\.LayerNorm", "heads:mlm.head.norm"),
    *with_bias(r"itm_score\.fc", "heads:itm.head.classifier"),
    *with_bias(r"rank_output", "rank:rank"),
    (r"mpp_score\..*", NO_OBJECTIVE),
    *(
        rule
        for task in ("vqa", "nlvr2", "snli")
        for ours, theirs in _CLASSIFIER.items()
        for rule in with_bias(rf"{task}_classifier\.(?:{theirs})", f"heads:{task}.head.{ours}")
    ),
]


def bert_rules(prefix: str, part: str) -> Rules:
    """A text encoder of transformers under a prefix: its own names, without buffers and pooler."""
    yield rf"{prefix}(?:.*\.)?position_ids", BUFFER
    yield rf"{prefix}pooler\..*", Unused("the text encoder's own pooler, which nothing reads")
    yield rf"{prefix}((?:embeddings|embeddings_project|encoder)\..*)", rf"{part}:\1"


def fusion_ends(prefix: str = "") -> Rules:
    """What stands before and behind the layers of a fusion."""
    yield rf"{prefix}token_type_embeddings\.weight", "model:token_types.embedding.weight"
    for side in ("text", "image"):
        yield from with_bias(rf"{prefix}cross_modal_{side}_transform", f"model:{side}_projection")
        yield from with_bias(
            rf"{prefix}(?:fusion_encoder\.)?cross_modal_{side}_pooler\.dense", f"model:{side}_pooler.dense"
        )


def attention_rules(projections: str, output: str, ours: str) -> Rules:
    """An attention of BERT's names as one of the fusion's."""
    for number, name in enumerate(("query", "key", "value")):
        yield from with_bias(rf"{projections}\.{name}", f"{ours}.qkv[{number}/3]")
    yield from residual_rules(output, f"{ours}.output")


def feed_forward_rules(inner: str, output: str, ours: str) -> Rules:
    """A feed-forward layer of BERT's names as one of the fusion's."""
    yield from with_bias(rf"{inner}\.dense", f"{ours}.dense")
    yield from residual_rules(output, f"{ours}.output")


def residual_rules(theirs: str, ours: str) -> Rules:
    """A projection and the layer norm behind it."""
    yield from with_bias(rf"{theirs}\.dense", f"{ours}.dense")
    yield from with_bias(rf"{theirs}\.LayerNorm", f"{ours}.norm")


def layer_count(state: Iterable[str], prefix: str) -> int:
    """How many layers tensors have, whose numbers follow a prefix in their names."""
    numbers = [name.removeprefix(f"{prefix}.").partition(".")[0] for name in state if name.startswith(f"{prefix}.")]
    return 1 + max(map(int, filter(str.isdigit, numbers)), default=-1)


def refuse_incomplete(source: ForeignModel, needed: Mapping[str, tuple[Mapping[str, Tensor], str]]) -> None:
    """Refuses half of a checkpoint. needed: of each part of the model its tensors, and one of them that it cannot be without."""
    lacking = [part for part, (state, name) in needed.items() if name not in state]
    require(not lacking, f"source={source.name} is not whole: it lacks tensors of the {' and the '.join(lacking)}.")


def head_count(source: ForeignModel, heads: Mapping[str, int], key: str, width: int) -> int:
    """Attention heads of a tower, which no tensor shows: given, of the run's settings, or of 64 channels each."""
    prefix = "" if key == "encoder" else f"{key}_"
    random = "random_init_" + {"image_encoder": "vision_encoder"}.get(key, key)
    own = source.settings.get(f"{key}_manual_configuration") and source.settings.get(random)
    stated = source.settings.get(f"{prefix}num_heads") if own else None
    count = heads.get(key) or (stated if type(stated) is int else 0) or max(1, width // 64)
    fits = 0 < count <= width and width % count == 0
    require(
        fits, f"source={source.name}: {count} attention heads do not divide the width {width}; give {prefix}num_heads."
    )
    return count


def text_config(
    config_class: type[PreTrainedConfig],
    state: Mapping[str, Tensor],
    source: ForeignModel,
    heads: Mapping[str, int],
    key: str = "text_encoder",
) -> PreTrainedConfig:
    """The configuration of a BERT-like encoder with these tensors."""
    words = state["embeddings.word_embeddings.weight"]
    inner, width = state["encoder.layer.0.intermediate.dense.weight"].shape
    sizes = {
        "vocab_size": len(words),
        "hidden_size": width,
        "num_hidden_layers": layer_count(state, "encoder.layer"),
        "num_attention_heads": head_count(source, heads, key, width),
        "intermediate_size": inner,
        "max_position_embeddings": len(state["embeddings.position_embeddings.weight"]),
        "type_vocab_size": len(state["embeddings.token_type_embeddings.weight"]),
    }
    if config_class is ElectraConfig and sizes["type_vocab_size"] > 1:
        sizes["embedding_size"] = words.shape[1]
    if sizes["type_vocab_size"] == 1:  # RoBERTa and its kin, whose positions begin at 2
        config_class = RobertaConfig
    if config_class is RobertaConfig:
        sizes["layer_norm_eps"] = 1e-5
    return config_class(**sizes)


def vit_config(
    state: Mapping[str, Tensor], source: ForeignModel, heads: Mapping[str, int], key: str, **facts: Any
) -> PreTrainedConfig:
    """The configuration of a ViT, or of a distilled DeiT, with these tensors."""
    width, _, patch, _ = state["embeddings.patch_embeddings.projection.weight"].shape
    distilled = "embeddings.distillation_token" in state
    side = math.isqrt(state["embeddings.position_embeddings"].shape[1] - 1 - distilled)
    config = (DeiTConfig if distilled else ViTConfig)(
        hidden_size=width,
        num_hidden_layers=layer_count(state, "encoder.layer"),
        num_attention_heads=head_count(source, heads, key, width),
        intermediate_size=len(state["encoder.layer.0.intermediate.dense.weight"]),
        image_size=side * patch,
        patch_size=patch,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        layer_norm_eps=facts.pop("layer_norm_eps", 1e-12),
    )
    for name, value in facts.items():
        setattr(config, name, value)
    return config


def two_tower_settings(
    source: ForeignModel, renamed: Renamed, heads: Mapping[str, int], fusion: str, inner: str
) -> dict[str, Any]:
    """Settings of a two-tower. fusion: its kind. inner: name of the first feed-forward layer's weight."""
    require("encoder" not in heads, "num_heads is of a one-tower, and this is a two-tower: leave it out.")
    rows, width = renamed.parts["model"][inner].shape
    stated = source.settings.get("num_cross_layer_heads") or source.settings.get("num_heads")
    count = heads.get("fusion") or (stated if type(stated) is int else 0) or max(1, width // 64)
    longest = source.settings.get("max_text_len")
    return {
        "pooler_type": "double",
        "fusion": fusion,
        "cross_layer_hidden_size": width,
        "num_cross_layers": layer_count(renamed.parts["model"], "fusion.layers"),
        "num_cross_layer_heads": count,
        "cross_layer_mlp_ratio": rows / width,
        "max_text_len": longest if type(longest) is int else None,
    }


def finish_token_types(renamed: Renamed) -> None:
    """Gives both images of a pair the row of images, where there is no third row."""
    model = renamed.parts["model"]
    if (rows := model.get("token_types.embedding.weight")) is not None and len(rows) == 2:
        model["token_types.embedding.weight"] = torch.cat([rows, rows[1:]])


def finish_ranking(renamed: Renamed) -> None:
    """Makes a matching head of one that scores: its log-odds, the difference of the two logits, are the score."""
    for name, tensor in renamed.parts.pop("rank", {}).items():
        ours = f"irtr.head.classifier.{name.partition('.')[2]}"
        renamed.parts["heads"][ours] = torch.cat([torch.zeros_like(tensor), tensor])
