"""The program of this name before this one: two-towers with LXMERT's layers, which is `fusion=shared`, and one-towers.

It embeds texts twice and lets towers, or a whole one-tower, attend to padding. So what comes of its weights computes otherwise
than it did: it is a start for training, and that is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import ElectraConfig

from renaissance.core.errors import require

from .converted import Converted
from .foreign import ForeignModel
from .key_map import Renamed, Rules, Unused, rename, with_bias
from .shared_rules import (
    BUFFER,
    HEADS,
    IMAGENET,
    NO_OBJECTIVE,
    attention_rules,
    bert_rules,
    feed_forward_rules,
    finish_token_types,
    fusion_ends,
    refuse_incomplete,
    text_config,
    two_tower_settings,
    vit_config,
)

_PADDING = "the first program let padding of texts be attended to {}; here no token sees it, so shorter texts of a batch differ"
_TWICE = (
    "the first program embedded each text twice (positions, types and layer norm once more); here it is embedded once"
)
_GRID = (
    "the first program resized positions for larger images bicubically by a factor; here they are resized as the family does, or "
    "in a one-tower of a text encoder, as ViLT does"
)
_EMBEDDINGS = (
    r"cls_token|position_embeddings|patch_embeddings\.projection\.(?:weight|bias)|"
    r"(?:word|position)_embeddings\.weight|LayerNorm\.(?:weight|bias)"
)
NAME = "the first Renaissance"
_TEXT_HEADS = Unused("the head of a text task of GLUE, which reads other features here")


def _rules() -> Rules:
    yield from _two_tower_rules()
    yield from _one_tower_rules()
    yield r"(?:mrpc|rte|wnli|sst2|qqp|qnli|cola|mnli)_classifier\..*", _TEXT_HEADS
    yield r"(?:ref_classifier|cifar10_classifier|vcr\w*|contras\w*)\..*", NO_OBJECTIVE
    yield from HEADS


def _two_tower_rules() -> Rules:
    yield from bert_rules(r"encoder\.text_transformer\.", "text_encoder")
    yield r"encoder\.image_encoder\.pooler\..*", Unused("the image encoder's own pooler, which nothing reads")
    yield r"encoder\.image_encoder\.((?:embeddings|encoder|layernorm)\..*)", r"image_encoder:\1"
    yield from fusion_ends(r"encoder\.")
    layer, ours = r"encoder\.fusion_encoder\.cross_modal_layers\.(\d+)", r"model:fusion.layers.\1"
    yield from attention_rules(
        rf"{layer}\.visual_attention\.att", rf"{layer}\.visual_attention\.output", f"{ours}.cross"
    )
    for theirs, side in (("lang", "text"), ("visn", "image")):
        attention = rf"{layer}\.{theirs}_self_att"
        yield from attention_rules(rf"{attention}\.self", rf"{attention}\.output", f"{ours}.{side}.attention")
        yield from feed_forward_rules(
            rf"{layer}\.{theirs}_inter", rf"{layer}\.{theirs}_output", f"{ours}.{side}.feed_forward"
        )


def _one_tower_rules() -> Rules:
    yield r"encoder\.encoder\.(.*)", r"encoder:encoder.\1"
    yield r"encoder\.\w+_embeddings\.position_ids", BUFFER
    for side in ("text", "image"):
        yield from with_bias(rf"encoder\.{side}_pooler\.dense", f"model:{side}_pooler.dense")
        yield from with_bias(rf"encoder\.{side}_embedding_projection", f"own:{side}_projection")
        yield rf"encoder\.{side}_embeddings\.({_EMBEDDINGS})", rf"own:{side}.\1"


def matches(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of the first program."""
    return any(name.startswith(("encoder.fusion_encoder.", "encoder.image_embeddings.")) for name in state)


def convert(source: ForeignModel, heads: Mapping[str, int]) -> Converted:
    """A model of the first program; arguments and errors as of `meter.convert`."""
    renamed = rename(source.state, _rules())
    finish_token_types(renamed)
    make = _two_tower if "text_encoder" in renamed.parts else _one_tower
    converted = make(source, renamed, heads)
    converted.settings.setdefault("tokenizer", "google-bert/bert-base-uncased")
    used, size = source.settings.get("image_size"), converted.settings["image_size"]
    if type(used) is int and used != size:
        converted.notes.append(
            f"its run had images of {used} pixels, its positions {size}: give image_size={used} to yours"
        )
    converted.settings |= {"train_transform_keys": ["imagenet"], "val_transform_keys": ["imagenet"]}
    return converted


def _two_tower(source: ForeignModel, renamed: Renamed, heads: Mapping[str, int]) -> Converted:
    text, image = renamed.parts["text_encoder"], renamed.parts["image_encoder"]
    inner = "fusion.layers.0.text.feed_forward.dense.weight"
    needed = {"text_encoder": (text, "embeddings.word_embeddings.weight")}
    needed |= {"image_encoder": (image, "embeddings.position_embeddings"), "fusion": (renamed.parts["model"], inner)}
    refuse_incomplete(source, needed)
    config = vit_config(image, source, heads, "image_encoder")
    settings = two_tower_settings(source, renamed, heads, "shared", inner) | {"image_size": config.image_size}
    towers = {"text_encoder": text_config(ElectraConfig, text, source, heads), "image_encoder": config}
    return Converted(
        NAME, towers, renamed, settings, IMAGENET, notes=[_TWICE, _PADDING.format("in the text encoder"), _GRID]
    )


def _one_tower(source: ForeignModel, renamed: Renamed, heads: Mapping[str, int]) -> Converted:
    blocks, own, model = renamed.parts["encoder"], renamed.parts.pop("own"), renamed.parts["model"]
    needed = {"encoder": (blocks, "encoder.layer.0.output.dense.weight")}
    needed |= {"text embeddings": (own, "text.word_embeddings.weight")}
    needed |= {"image embeddings": (own, "image.position_embeddings")}
    refuse_incomplete(source, needed)
    text = {name.removeprefix("text."): tensor for name, tensor in own.items() if name.startswith("text.")}
    image = {name.removeprefix("image."): tensor for name, tensor in own.items() if name.startswith("image.")}
    words = text["word_embeddings.weight"]
    require({*heads} <= {"encoder"}, "Only num_heads is of a one-tower: leave the other numbers of heads out.")
    if "encoder.layer.0.layernorm_before.weight" in blocks:
        blocks |= {f"embeddings.{name}": tensor for name, tensor in image.items()}
        width = len(blocks["encoder.layer.0.layernorm_before.weight"])
        blocks |= {"layernorm.weight": torch.ones(width), "layernorm.bias": torch.zeros(width)}  # read, and not applied
        config = vit_config(blocks, source, heads, "encoder", final_norm=False)
        names = {"word_embeddings": "word", "position_embeddings": "position", "LayerNorm": "norm"}
        for name, tensor in text.items():
            module, _, kind = name.partition(".")
            model[f"text_embeddings.{names[module]}.{kind}"] = tensor
        model["text_embeddings.segment.weight"] = torch.zeros(2, width)
    else:
        blocks |= {f"embeddings.{name}": tensor for name, tensor in text.items()}
        blocks["embeddings.token_type_embeddings.weight"] = torch.zeros(2, words.shape[1])
        config = text_config(ElectraConfig, blocks, source, heads, "encoder")
        config.patch_norm = False
        _project(own, image, blocks, model)
    side = math.isqrt(image["position_embeddings"].shape[1] - 1)
    patch = image["patch_embeddings.projection.weight"].shape[-1]
    settings = {"pooler_type": "double", "max_text_len": len(text["position_embeddings.weight"])}
    settings |= {"image_size": side * patch, "patch_size": patch}
    return Converted(
        NAME, {"encoder": config}, renamed, settings, IMAGENET, notes=[_PADDING.format("everywhere"), _GRID]
    )


def _project(
    own: Mapping[str, Tensor], image: Mapping[str, Tensor], blocks: dict[str, Tensor], model: dict[str, Tensor]
) -> None:
    """A one-tower of a text encoder: all that lies before the projections is linear, so they are multiplied into it."""
    width = len(blocks["encoder.layer.0.output.dense.weight"])
    types = model["token_types.embedding.weight"].double()
    if "text_projection.weight" in own:
        blocks |= {f"embeddings_project.{kind}": own[f"text_projection.{kind}"] for kind in ("weight", "bias")}
        matrix, bias = own["image_projection.weight"].double(), own["image_projection.bias"].double()
        of_text = own["text_projection.weight"].double() @ types[0]
    else:
        matrix, bias, of_text = torch.eye(width).double(), torch.zeros(width).double(), types[0]
    model["token_types.embedding.weight"] = torch.cat([of_text[None], types[1:] @ matrix.T])
    image = {name: tensor.double() for name, tensor in image.items()}
    positions = image["position_embeddings"] @ matrix.T  # (1, 1 + g * g, D)
    side = math.isqrt(positions.shape[1] - 1)
    model |= {
        "image_embeddings.projection.weight": torch.einsum(
            "de,ecpq->dcpq", matrix, image["patch_embeddings.projection.weight"]
        ),
        "image_embeddings.projection.bias": matrix @ image["patch_embeddings.projection.bias"] + bias,
        "image_embeddings.cls_token": image["cls_token"] @ matrix.T + bias,
        "image_embeddings.cls_position": positions[:, :1],
        "image_embeddings.position": positions[:, 1:].transpose(1, 2).unflatten(2, (side, side)),
    }
