"""ViLT (Kim et al. 2021): its own checkpoints, and the Hub's models of type vilt.

A one-tower of ViT blocks. The text's [CLS] is pooled. Patch positions are interpolated bilinearly to each image's own grid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .converted import Converted
from .foreign import ForeignModel
from .key_map import Rules, rename, with_bias
from .shared_rules import BUFFER, HEADS, finish_ranking, finish_token_types, refuse_incomplete, vit_config

HALF = (0.5, 0.5, 0.5)
_HEADS = {768: 12, 1024: 16}  # of the published widths
_NO_ITM = "the Hub's ViLT models have no head for image-text matching, so there is none; the original file has it"
_HUB_HEADS = {"ViltForQuestionAnswering": "vqa", "ViltForImagesAndTextClassification": "nlvr2"}


def _rules() -> Rules:
    """Original names."""
    layer, block = r"transformer\.blocks\.(\d+)", r"encoder:encoder.layer.\1"
    attention = f"{block}.attention.attention"
    yield from _text_rules("text_embeddings")
    yield r"token_type_embeddings\.weight", "model:token_types.embedding.weight"
    yield r"transformer\.cls_token", "encoder:embeddings.cls_token"
    yield r"transformer\.pos_embed", "encoder:embeddings.position_embeddings"
    yield from with_bias(r"transformer\.patch_embed\.proj", "encoder:embeddings.patch_embeddings.projection")
    yield from with_bias(rf"{layer}\.norm1", f"{block}.layernorm_before")
    yield from with_bias(rf"{layer}\.norm2", f"{block}.layernorm_after")
    yield from with_bias(rf"{layer}\.attn\.qkv", tuple(f"{attention}.{each}" for each in ("query", "key", "value")))
    yield from with_bias(rf"{layer}\.attn\.proj", f"{block}.attention.output.dense")
    yield from with_bias(rf"{layer}\.mlp\.fc1", f"{block}.intermediate.dense")
    yield from with_bias(rf"{layer}\.mlp\.fc2", f"{block}.output.dense")
    yield from with_bias(r"transformer\.norm", "encoder:layernorm")
    yield from with_bias(r"pooler\.dense", "model:text_pooler.dense")
    yield from HEADS


def _hub_rules(task: str | None) -> Rules:
    """Names of transformers' classes."""
    embeddings = r"(?:vilt\.)?embeddings"
    yield from _text_rules(rf"{embeddings}\.text_embeddings")
    yield rf"{embeddings}\.token_type_embeddings\.weight", "model:token_types.embedding.weight"
    yield rf"{embeddings}\.(cls_token|position_embeddings|patch_embeddings\..*)", r"encoder:embeddings.\1"
    yield r"(?:vilt\.)?(encoder\.layer\..*|layernorm\..*)", r"encoder:\1"
    yield from with_bias(r"(?:vilt\.)?pooler\.dense", "model:text_pooler.dense")
    if task is not None:
        yield r"classifier\.(.*)", rf"heads:{task}.head.\1"
    yield from HEADS


def _text_rules(prefix: str) -> Rules:
    yield rf"{prefix}\.position_ids", BUFFER
    for theirs, ours in (("word", "word"), ("position", "position"), ("token_type", "segment")):
        yield rf"{prefix}\.{theirs}_embeddings\.weight", f"model:text_embeddings.{ours}.weight"
    yield from with_bias(rf"{prefix}\.LayerNorm", "model:text_embeddings.norm")


def matches(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of a ViLT."""
    hub = any(re.fullmatch(r"(vilt\.)?embeddings\.text_embeddings\..*", name) for name in state)
    return hub or any(name.startswith("transformer.blocks.") for name in state)


def convert(source: ForeignModel, numbers: Mapping[str, int]) -> Converted:
    """A ViLT as a one-tower.

    Args:
        numbers: of attention heads as {"encoder": n}, which no file has; else that of the published sizes.

    Raises:
        UserError: tensors are missing.
    """
    hub = source.folder is not None
    known = source.settings if hub else {}
    task = next((_HUB_HEADS[each] for each in known.get("architectures") or () if each in _HUB_HEADS), None)
    renamed = rename(source.state, _hub_rules(task) if hub else _rules())
    tower, model = renamed.parts["encoder"], renamed.parts["model"]
    needed = {"image embeddings": (tower, "embeddings.position_embeddings")}
    needed |= {"text embeddings": (model, "text_embeddings.word.weight")}
    needed |= {"blocks": (tower, "encoder.layer.0.intermediate.dense.weight")}
    refuse_incomplete(source, needed)
    stated = (
        known.get("num_attention_heads")
        or _HEADS.get(len(tower["embeddings.cls_token"][0, 0]))
        or source.settings.get("num_heads")
    )
    eps = known.get("layer_norm_eps", 1e-6)
    config = vit_config(
        tower, source, {"encoder": stated} | numbers, "encoder", layer_norm_eps=eps, bilinear_positions=True
    )
    finish_token_types(renamed)
    finish_ranking(renamed)
    heads = renamed.parts["heads"]
    if hub and "mlm.head.transform.weight" in heads:  # a file of tied matrices has one of them
        heads.setdefault("mlm.head.decoder.weight", model["text_embeddings.word.weight"])
    labels = {"vqa": _labels(known)} if task == "vqa" else {}
    notes = [] if not hub or task else [_NO_ITM]
    settings = {
        "tokenizer": "google-bert/bert-base-uncased",
        "pooler_type": "single",
        "max_text_len": len(model["text_embeddings.position.weight"]),
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "train_transform_keys": ["pixelbert"],
        "val_transform_keys": ["pixelbert"],
    }
    return Converted("ViLT", {"encoder": config}, renamed, settings, {"mean": HALF, "std": HALF}, labels, notes)


def _labels(config: Mapping[str, Any]) -> list[str]:
    labels = config.get("id2label") or {}
    return [str(labels.get(str(number), number)) for number in range(len(labels))]
