"""Models of transformers as the towers or the blocks of an exported model."""

from __future__ import annotations

import inspect
import math
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, PreTrainedModel


def build_tower(facts: dict[str, Any]) -> tuple[nn.Module, PreTrainedModel]:
    """The part of a model of transformers that a tower uses, without poolers and heads; and the whole model."""
    values = dict(facts["config"])
    model_class = getattr(transformers, facts["class"])
    if not issubclass(model_class, PreTrainedModel):
        raise ValueError(f"{facts['class']} is no model of transformers.")
    options = {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(model_class).parameters else {}
    whole = model_class(AutoConfig.for_model(values.pop("model_type"), **values), **options)
    part = whole.get_submodule(facts["part"])
    for path in facts["drop"]:
        take_out(part, path)
    return part, whole


def take_out(model: nn.Module, path: str) -> nn.Module | None:
    """Replaces a module by an identity, and returns it; None where the model has none."""
    path, _, name = path.rpartition(".")
    parent = model.get_submodule(path)
    module = getattr(parent, name, None)
    setattr(parent, name, nn.Identity())
    return module


def initialized_by(whole: PreTrainedModel, *parts: nn.Module) -> None:
    """Has parts that are no models of their own initialised as in the whole model: their buffers are in no file."""
    for part in parts:
        for module in part.modules():
            module.initialize_buffers = whole._init_weights


class TextTower(nn.Module):
    def __init__(self, facts: dict[str, Any]):
        super().__init__()
        self.model, whole = build_tower(facts)
        self.takes_types = facts["token_types"]
        if facts["part"]:
            initialized_by(whole, self.model)

    def forward(self, input_ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        inputs = {"token_type_ids": types} if self.takes_types else {}
        return self.model(input_ids=input_ids, attention_mask=mask.long(), **inputs).last_hidden_state


class ImageTower(nn.Module):
    def __init__(self, facts: dict[str, Any]):
        super().__init__()
        self.model, whole = build_tower(facts)
        self.norm_path = facts["norm"]
        if facts["part"]:
            initialized_by(whole, self.model)

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.model(pixel_values=pixels).last_hidden_state
        if self.norm_path:
            hidden = self.model.get_submodule(self.norm_path)(hidden)
        return hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden


class Blocks(nn.Module):
    """The blocks of one model, over the tokens of both modalities."""

    def __init__(self, layers: nn.Module, norm: nn.Module, eager: bool):
        super().__init__()
        self.layers, self.norm, self.eager = layers, norm, eager

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            mask = mask[:, None, None]
            if self.eager:
                mask = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(~mask, torch.finfo(hidden.dtype).min)
        for layer in self.layers if isinstance(self.layers, nn.ModuleList) else [self.layers]:
            output = layer(hidden, attention_mask=mask)
            hidden = output if isinstance(output, Tensor) else output[0]
        return self.norm(hidden)


class FamilyTextEmbeddings(nn.Module):
    """The text embeddings of a one-tower's own model."""

    def __init__(self, front: list[nn.Module], takes_types: bool):
        super().__init__()
        self.front, self.takes_types = nn.ModuleList(front), takes_types

    def forward(self, input_ids: Tensor, types: Tensor) -> Tensor:
        hidden = self.front[0](input_ids=input_ids, **({"token_type_ids": types} if self.takes_types else {}))
        for module in self.front[1:]:
            hidden = module(hidden)
        return hidden


class FamilyPatchEmbeddings(nn.Module):
    """The image embeddings of a one-tower's own model; an image that is padded is embedded at its own size, as in ViLT."""

    def __init__(self, front: list[nn.Module], patch_size: int, image_size: int, bilinear: bool):
        super().__init__()
        self.front, self.patch_size, self.image_size = nn.ModuleList(front), patch_size, image_size
        self.takes_interpolate = "interpolate_pos_encoding" in inspect.signature(front[0].forward).parameters
        if bilinear:
            front[0].interpolate_pos_encoding = partial(bilinear_positions, front[0], patch_size)

    def forward(self, pixels: Tensor, sizes: list[tuple[int, int]] | None) -> tuple[Tensor, Tensor | None]:
        if sizes is None:
            return self.embed(pixels), None
        whole = [tuple(max(side // self.patch_size, 1) * self.patch_size for side in size) for size in sizes]
        pieces = [self.embed(each[None, :, :h, :w])[0] for each, (h, w) in zip(pixels, whole, strict=True)]
        lengths = torch.tensor([len(piece) for piece in pieces], device=pixels.device)
        hidden = nn.utils.rnn.pad_sequence(pieces, batch_first=True)
        return hidden, torch.arange(hidden.shape[1], device=pixels.device) < lengths[:, None]

    def embed(self, pixels: Tensor) -> Tensor:
        interpolate = self.takes_interpolate and tuple(pixels.shape[-2:]) != (self.image_size, self.image_size)
        hidden = self.front[0](pixels, **({"interpolate_pos_encoding": True} if interpolate else {}))
        for module in self.front[1:]:
            hidden = module(hidden)
        return hidden


def bilinear_positions(embeddings: nn.Module, patch_size: int, _: Tensor, height: int, width: int) -> Tensor:
    """A table (1,1+g*g,D) on the grid of an image of (height, width) pixels, as ViLT interpolates it."""
    table = embeddings.position_embeddings
    side = math.isqrt(table.shape[1] - 1)
    grid = table[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    grid = on_grid(grid, height // patch_size, width // patch_size)
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def on_grid(position: Tensor, rows: int, columns: int) -> Tensor:
    """Learned positions (1,D,h,w) on another grid."""
    if position.shape[-2:] == (rows, columns):
        return position
    return F.interpolate(position, size=(rows, columns), mode="bilinear", align_corners=True)


class TextEmbeddings(nn.Module):
    """Text embeddings, as in BERT, of a one-tower made of an image model."""

    def __init__(self, vocab_size: int, width: int, max_text_len: int, drop_rate: float):
        super().__init__()
        self.word, self.position = nn.Embedding(vocab_size, width), nn.Embedding(max_text_len, width)
        self.segment, self.norm = nn.Embedding(2, width), nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(drop_rate)

    def forward(self, input_ids: Tensor, types: Tensor) -> Tensor:
        total = self.word(input_ids) + self.position.weight[: input_ids.shape[1]] + self.segment(types)
        return self.dropout(self.norm(total))


class PatchEmbeddings(nn.Module):
    """Image embeddings, as in ViT, of a one-tower made of a text model."""

    def __init__(self, width: int, image_size: int, patch_size: int, drop_rate: float, norm: bool):
        super().__init__()
        self.patch_size, grid = patch_size, image_size // patch_size
        self.projection = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)
        self.cls_token, self.cls_position = (nn.Parameter(torch.zeros(1, 1, width)) for _ in range(2))
        self.position = nn.Parameter(torch.zeros(1, width, grid, grid))
        self.norm = nn.LayerNorm(width, eps=1e-12) if norm else nn.Identity()
        self.dropout = nn.Dropout(drop_rate)

    def forward(self, pixels: Tensor, sizes: list[tuple[int, int]] | None) -> tuple[Tensor, Tensor | None]:
        patches, mask = self.projection(pixels), None
        rows, columns = patches.shape[-2:]
        position = on_grid(self.position, rows, columns)
        if sizes is not None:  # each image's own grid spans the learned one
            position = patches.new_zeros(len(sizes), *position.shape[1:])
            mask = torch.zeros(len(sizes), rows, columns, dtype=torch.bool, device=pixels.device)
            for index, (height, width) in enumerate((h // self.patch_size, w // self.patch_size) for h, w in sizes):
                position[index, :, :height, :width] = on_grid(self.position, height, width)[0]
                mask[index, :height, :width] = True
            mask = F.pad(mask.flatten(1), (1, 0), value=True)
        first = (self.cls_token + self.cls_position).expand(len(patches), -1, -1)
        hidden = torch.cat([first, (patches + position).flatten(2).transpose(1, 2)], dim=1)
        return self.dropout(self.norm(hidden)), mask


def build_one_tower(facts: dict[str, Any], sizes: dict[str, Any], width: int) -> tuple[Blocks, nn.Module, nn.Module]:
    """Blocks, text embeddings and image embeddings; one of the embeddings is the model's own."""
    part, whole = build_tower(facts)
    front = [module for path in facts["front"] if (module := take_out(part, path)) is not None]
    norm = part.get_submodule(facts["norm"]) if facts["norm"] else nn.Identity()
    layers = part.get_submodule(facts["layers"])
    initialized_by(whole, *front, layers, norm)
    blocks = Blocks(layers, norm, part.config._attn_implementation == "eager")
    if facts["reads"] == "text":
        image = PatchEmbeddings(width, **sizes)
        return blocks, FamilyTextEmbeddings(front, facts["token_types"]), image
    own = FamilyPatchEmbeddings(front, facts["patch_size"], facts["image_size"], facts["bilinear_positions"])
    return blocks, TextEmbeddings(width=width, **sizes), own
