"""The transformer blocks of a text or vision model, which run over the tokens of both modalities in a one-tower model."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from renaissance.core.errors import require
from renaissance.core.types import TextInput, Tokens
from renaissance.models.transfer import async_tensor

from .attention import attend, layer_mask
from .build import BuiltEncoder, build_encoder, drop_module
from .dimensions import encoder_dimensions, width_of
from .facts import facts_of
from .family import TEXT
from .patches import keep_patches
from .resize import resize_grid


class Blocks(nn.Module):
    """A family's blocks and its final norm, if it has one.

    Args:
        layers: list of blocks, or one module that runs them all.
        norm: after the last block.

    Attributes:
        hidden_size, pooling, config, unused: as of a `Tower`.
        like_bert: as of `Stack`.
    """

    def __init__(self, layers: nn.Module, norm: nn.Module, encoder: BuiltEncoder):
        super().__init__()
        self.layers, self.norm = layers, norm
        self.config, self.unused, self.pooling = encoder.model.config, encoder.unused, encoder.family.pooling
        self.hidden_size = width_of(encoder.config, encoder.family)
        self.like_bert = encoder.family.one_tower.like_bert

    def forward(self, hidden: Tensor, mask: Tensor | None, read: tuple[int, int, int] | None = None) -> Tensor:
        """Runs hidden (B, N, D) through the blocks; no token attends to one whose mask (B, N) is False.

        Args:
            read: (n, start, m), the tokens that are read: the first n, and the m from `start` on; None = all are.

        Returns:
            These alone, (B, n + m, D); the last block of a family like BERT computes no others.
        """
        attention_mask = layer_mask(mask, self.config, hidden.dtype)
        layers = list(self.layers) if isinstance(self.layers, nn.ModuleList) else [self.layers]
        narrow = read is not None and read[0] + read[2] < hidden.shape[1]
        last = layers.pop() if narrow and self.like_bert else None
        for layer in layers:
            output = layer(hidden, attention_mask=attention_mask)
            hidden = output if isinstance(output, torch.Tensor) else output[0]
        if last is not None:
            hidden = _last_block(last, hidden, attention_mask, read)
        elif narrow:
            hidden = _tokens_read(hidden, read)
        return self.norm(hidden)


def _tokens_read(hidden: Tensor, read: tuple[int, int, int]) -> Tensor:
    first, start, more = read
    return torch.cat([hidden[:, :first], hidden[:, start : start + more]], dim=1)


def _last_block(block: nn.Module, hidden: Tensor, attention_mask: Tensor | None, read: tuple[int, int, int]) -> Tensor:
    """A block of BERT's parts over (B, N, D), but for queries of the tokens that are read alone: (B, n + m, D)."""
    attention, queries = block.attention.self, _tokens_read(hidden, read)
    query, key, value = (
        projection(tokens).unflatten(-1, (-1, attention.attention_head_size)).transpose(1, 2)
        for projection, tokens in ((attention.query, queries), (attention.key, hidden), (attention.value, hidden))
    )
    rate = attention.dropout.p if block.training else 0.0
    mixed, _ = attend(attention, query, key, value, attention_mask, dropout=rate)
    attended = block.attention.output(mixed.flatten(2), queries)
    return block.output(block.intermediate(attended), attended)


class FamilyTextEmbeddings(nn.Module):
    """A text family's word-piece, position and type embeddings."""

    def __init__(self, front: list[nn.Module], takes_types: bool):
        super().__init__()
        self.front = nn.ModuleList(front)
        self.takes_types = takes_types and "token_type_ids" in inspect.signature(front[0].forward).parameters

    def forward(self, text: TextInput) -> Tensor:
        """Embeds texts (B, L). Returns (B, L, D)."""
        types = {"token_type_ids": text.token_type_ids} if self.takes_types else {}
        hidden = self.front[0](input_ids=text.input_ids, **types)
        for module in self.front[1:]:
            hidden = module(hidden)
        return hidden


class FamilyPatchEmbeddings(nn.Module):
    """A vision family's patch and position embeddings, with its CLS token."""

    def __init__(self, front: list[nn.Module], patch_size: int, image_size: int):
        super().__init__()
        self.front = nn.ModuleList(front)
        self.patch_size = patch_size
        self.image_size = image_size
        self._takes_interpolate = "interpolate_pos_encoding" in inspect.signature(front[0].forward).parameters

    def forward(
        self, pixels: Tensor, sizes: Sequence[tuple[int, int]] | None = None, kept: Tensor | None = None
    ) -> Tokens:
        """Embeds normalised images (B, 3, H, W).

        Args:
            sizes: real height and width of each image, the rest of (H, W) being padding. Position embeddings
                are then interpolated to each image's own grid, as ViLT does; None if all fill (H, W).
            kept: (B, K) the patches that stay, of images that fill (H, W); None = all.

        Returns:
            hidden (B, N, D); mask False on the padding after an image's own tokens.
        """
        if sizes is None:
            return Tokens(self._embed(pixels, kept), None)
        grids = [tuple(max(side // self.patch_size, 1) for side in size) for size in sizes]
        pieces: list[Tensor | None] = [None] * len(grids)
        for grid in sorted(set(grids)):
            of_grid = [index for index, other in enumerate(grids) if other == grid]
            height, width = grid[0] * self.patch_size, grid[1] * self.patch_size
            alike = torch.stack([pixels[index, :, :height, :width] for index in of_grid])
            for index, hidden in zip(of_grid, self._embed(alike), strict=True):
                pieces[index] = hidden
        lengths = async_tensor([len(piece) for piece in pieces], pixels.device)
        hidden = nn.utils.rnn.pad_sequence(pieces, batch_first=True)
        return Tokens(hidden, torch.arange(hidden.shape[1], device=pixels.device) < lengths[:, None])

    def _embed(self, pixels: Tensor, kept: Tensor | None = None) -> Tensor:
        own_size = tuple(pixels.shape[-2:]) == (self.image_size, self.image_size)
        interpolate = not own_size and self._takes_interpolate  # families without the switch always interpolate
        hidden = self.front[0](pixels, **({"interpolate_pos_encoding": True} if interpolate else {}))
        if kept is not None:
            rows, columns = (side // self.patch_size for side in pixels.shape[-2:])
            hidden = keep_patches(hidden, kept, rows * columns)
        for module in self.front[1:]:
            hidden = module(hidden)
        return hidden


def build_blocks(
    config: PreTrainedConfig, **options: Any
) -> tuple[Blocks, FamilyTextEmbeddings | FamilyPatchEmbeddings]:
    """The blocks and the embeddings of one text or image model. Arguments and errors as of `build_encoder`."""
    encoder = build_encoder(config, "encoder", **options)
    model, stack = encoder.model, encoder.family.one_tower
    front = [module for path in stack.front if (module := drop_module(model, path)) is not None]
    facts = facts_of(config)
    norm = model.get_submodule(stack.norm) if stack.norm and facts.final_norm is not False else nn.Identity()
    blocks = Blocks(model.get_submodule(stack.layers), norm, encoder)
    if encoder.family.modality == TEXT:
        return blocks, FamilyTextEmbeddings(front, getattr(config, "type_vocab_size", 0) > 1)
    dims = encoder_dimensions(encoder.config)
    if facts.bilinear_positions:
        absolute = hasattr(front[0], "position_embeddings") and encoder.family.grids == {r"position_embeddings?$": 1}
        require(absolute, f"A {config.model_type} model cannot have bilinear_positions=True.")
        front[0].interpolate_pos_encoding = partial(_bilinear, front[0], dims["patch_size"])
    return blocks, FamilyPatchEmbeddings(front, dims["patch_size"], dims["image_size"])


def _bilinear(embeddings: nn.Module, patch_size: int, _: Tensor, height: int, width: int) -> Tensor:
    """A table (1, 1 + g * g, D) on the grid of an image of (height, width) pixels, as ViLT interpolates it."""
    table = embeddings.position_embeddings
    side = math.isqrt(table.shape[1] - 1)
    grid = table[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    grid = resize_grid(grid, height // patch_size, width // patch_size)
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
