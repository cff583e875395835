"""ViLT (Kim et al. 2021): its own checkpoints, and the Hub's models of type vilt.

A one-tower of ViT blocks. The text's [CLS] is pooled. Patch positions are interpolated bilinearly to each image's own grid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from renaissance.core.errors import require
from renaissance.core.untrusted import expect_keys, read_json
from renaissance.models.backbones.image_processor import IMAGE_PROCESSOR_FILES

from .converted import Converted
from .foreign import ForeignModel
from .key_map import Rules, rename, with_bias
from .shared_rules import BUFFER, HEADS, finish_ranking, finish_token_types, refuse_incomplete, vit_config

NAME = "ViLT"
HALF = (0.5, 0.5, 0.5)
_HEADS = {768: 12, 1024: 16}  # of the published widths
_NO_ITM = "the Hub's ViLT models have no head for image-text matching, so there is none; the original file has it"
_HUB_HEADS = {
    "ViltForMaskedLM": "mlm",
    "ViltForQuestionAnswering": "vqa",
    "ViltForImagesAndTextClassification": "nlvr2",
    "ViltForImageAndTextRetrieval": "irtr",
}
_ASPECT = (
    "its images keep their aspect (pixelbert), also in runs that start from it, unless they give other transform keys"
)
_SQUARE = "its images are cropped to squares (imagenet), as the image processor of its folder says"


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
    if task in ("vqa", "nlvr2"):
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
    require({*numbers} <= {"encoder"}, "Only num_heads is of a one-tower: leave the other numbers of heads out.")
    hub = not any(name.startswith("transformer.") for name in source.state)
    known = _hub_config(source) if hub else {}
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
    # A file of tied matrices has one of them.
    if known.get("tie_word_embeddings") and "mlm.head.transform.weight" in heads:
        heads.setdefault("mlm.head.decoder.weight", model["text_embeddings.word.weight"])
    named = {name.partition(".")[0] for name in heads}
    require(
        task is None or task in named,
        f"source={source.name}: its config.json names {', '.join(known.get('architectures') or ())}, but no weights of that head "
        "are there; it is not whole.",
    )
    notes = [_NO_ITM] if hub and task in (None, "mlm") and "itm" not in named else []
    cropped = source.folder is not None and _is_cropped(source.folder)
    notes.append(_SQUARE if cropped else _ASPECT)
    transform = "imagenet" if cropped else "pixelbert"
    settings = {
        "tokenizer": "google-bert/bert-base-uncased",
        "pooler_type": "single",
        "max_text_len": len(model["text_embeddings.position.weight"]),
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "train_transform_keys": [transform],
        "val_transform_keys": [transform],
    }
    image = {name: (source.image or {}).get(name, HALF) for name in ("mean", "std")}
    answers = _labels(known, source) if task == "vqa" else ()
    return Converted(NAME, {"encoder": config}, renamed, settings, image, answers, notes)


def _hub_config(source: ForeignModel) -> dict[str, Any]:
    """The fields of a config.json that matter.

    Raises:
        UserError: there is none, or it describes a model that this program cannot build.
    """
    where = f"source={source.name}"
    require(
        source.folder is not None,
        f"{where} has the names of transformers' ViLT: give the folder that it lies in, with its config.json.",
    )
    hints = {
        "architectures": list[str] | None,
        "num_attention_heads": int,
        "id2label": dict[str, str] | None,
        "layer_norm_eps": float | None,
        "hidden_act": str | None,
        "qkv_bias": bool | None,
        "tie_word_embeddings": bool | None,
    }
    known = dict(zip(hints, expect_keys(source.settings, hints, f"config.json of {source.name}"), strict=True))
    same = {"hidden_act": "gelu", "qkv_bias": True}
    for name, value in same.items():
        found = value if known[name] is None else known[name]
        require(found == value, f"{where}: config.json says {name}={found}, and only {value} can be built here.")
    eps = 1e-12 if known["layer_norm_eps"] is None else known["layer_norm_eps"]
    require(0 < eps <= 1e-5, f"{where}: config.json says layer_norm_eps={eps}; up to 1e-5 can be built here.")
    return known | {"layer_norm_eps": eps}


def _is_cropped(folder: Path) -> bool:
    """Whether an image processor beside the model crops images to squares; ViLT's own keeps their aspect."""
    path = folder / IMAGE_PROCESSOR_FILES[0]
    return path.is_file() and read_json(path, dict[str, Any]).get("crop_size") is not None


def _labels(config: Mapping[str, Any], source: ForeignModel) -> list[str]:
    labels = config["id2label"] or {}
    whole = {*labels} == {str(number) for number in range(len(labels))}
    require(whole, f"source={source.name}: id2label in its config.json does not number the answers from 0.")
    return [labels[str(number)] for number in range(len(labels))]
