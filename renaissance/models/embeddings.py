"""Embeddings of the modality that a one-tower encoder lacks, pixel normalisation, and token types."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from renaissance.core.types import ImageInput, TextInput, Tokens

from .attention import Dropout
from .backbones import keep_patches, resize_grid
from .transfer import async_tensor


class Normalize(nn.Module):
    """Normalises uint8 pixels as the vision encoder was pretrained: (x / 255 - mean) / std, on the device.

    Args:
        mean, std: of each RGB channel, for pixels in 0..1.
        channels: the order in which the encoder reads them, [2, 1, 0] for BGR; None for RGB.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], channels: list[int] | None = None):
        super().__init__()
        self.channels = None if channels is None else [int(each) for each in channels]
        # Folded into one multiplication and one addition on the 0..255 scale.
        self.register_buffer("scale", 1 / (255 * torch.tensor(std).view(3, 1, 1)), persistent=False)
        self.register_buffer("shift", -(torch.tensor(mean) / torch.tensor(std)).view(3, 1, 1), persistent=False)

    def forward(self, images: ImageInput) -> Tensor:
        """(M,3,H,W) uint8 -> (M,3,H,W) float. Padding of images smaller than (H,W) becomes 0, the mean colour."""
        pixels = torch.addcmul(self.shift, images.pixels.to(self.scale.dtype), self.scale)
        if self.channels is not None:
            pixels = pixels.index_select(1, async_tensor(self.channels, pixels.device))
        if images.sizes is None:
            return pixels
        height, width = pixels.shape[-2:]
        sizes = async_tensor(images.sizes, pixels.device)
        rows = torch.arange(height, device=pixels.device) < sizes[:, :1]
        columns = torch.arange(width, device=pixels.device) < sizes[:, 1:]
        return pixels * (rows[:, :, None] & columns[:, None, :])[:, None]


class TextEmbeddings(nn.Module):
    """Word, position and segment embeddings as in BERT, for a one-tower made of a vision encoder.

    Args:
        vocab_size: V. width: D. max_text_len: positions. drop_rate: dropout of the sum.
    """

    def __init__(self, vocab_size: int, width: int, max_text_len: int, drop_rate: float):
        super().__init__()
        self.word = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(max_text_len, width)
        self.segment = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = Dropout(drop_rate)

    def adapt(self, name: str, tensor: Tensor) -> Tensor | None:
        """A checkpoint's position table for longer texts, cut to this length; None for other tensors."""
        length = self.position.num_embeddings
        return tensor[:length] if name == "position.weight" and len(tensor) >= length else None

    def forward(self, text: TextInput) -> Tensor:
        """(B,L) -> (B,L,D)."""
        positions = self.position.weight[: text.input_ids.shape[1]]
        total = self.word(text.input_ids) + positions + self.segment(text.token_type_ids)
        return self.dropout(self.norm(total))


class PatchEmbeddings(nn.Module):
    """Patches, a [CLS] token and learned positions as in ViT, for a one-tower made of a text encoder.

    Args:
        width: D. image_size: side of the images in pixels. patch_size: side of a patch in pixels.
        drop_rate: dropout of the sum. norm: whether a layer norm follows the sum.
    """

    def __init__(self, width: int, image_size: int, patch_size: int, drop_rate: float, norm: bool = True):
        super().__init__()
        self.patch_size = patch_size
        grid = image_size // patch_size
        self.projection = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.cls_position = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, width, grid, grid))
        self.norm = nn.LayerNorm(width, eps=1e-12) if norm else nn.Identity()
        self.dropout = Dropout(drop_rate)

    def adapt(self, name: str, tensor: Tensor) -> Tensor | None:
        """A checkpoint's position grid of another image size, interpolated to this one; None for other tensors."""
        return resize_grid(tensor, *self.position.shape[-2:]) if name == "position" else None

    def forward(
        self, pixels: Tensor, sizes: Sequence[tuple[int, int]] | None = None, kept: Tensor | None = None
    ) -> Tokens:
        """(M,3,H,W) normalised pixels, M real sizes in pixels or None -> Tokens (M, 1 + H/p * W/p, D).

        Args:
            kept: (M,K) the patches that stay, of images that fill (H,W): then (M, 1 + K, D); None = all.
        """
        patches = self.projection(pixels)  # (M,D,h,w)
        rows, columns = patches.shape[-2:]
        if sizes is None:
            position, mask = resize_grid(self.position, rows, columns), None
        else:
            grids = [(height // self.patch_size, width // self.patch_size) for height, width in sizes]
            position, mask = positions_by_size(self.position, grids, rows, columns)
        patches = (patches + position).flatten(2).transpose(1, 2)
        if kept is not None:
            patches = keep_patches(patches, kept, rows * columns)
        first = (self.cls_token + self.cls_position).expand(len(patches), -1, -1)
        if mask is not None:
            mask = F.pad(mask.flatten(1), (1, 0), value=True)
        return Tokens(self.dropout(self.norm(torch.cat([first, patches], dim=1))), mask)


def positions_by_size(
    position: Tensor, grids: Sequence[tuple[int, int]], rows: int, columns: int
) -> tuple[Tensor, Tensor]:
    """Positions for images that keep their aspect: each image's own grid spans the whole learned grid.

    Args:
        position: (1,D,h,w). grids: rows and columns of patches of M images. rows, columns: patches of the padded batch.

    Returns:
        (M,D,rows,columns) positions, zero outside an image; (M,rows,columns) bool, True inside.
    """
    out = position.new_zeros(len(grids), position.shape[1], rows, columns)
    mask = torch.zeros(len(grids), rows, columns, dtype=torch.bool, device=position.device)
    for index, (height, width) in enumerate(grids):
        out[index, :, :height, :width] = resize_grid(position, height, width)[0]
        mask[index, :height, :width] = True
    return out, mask


class TokenTypes(nn.Module):
    """Token-type embeddings: rows for text, image and second image.

    The third row starts as a copy of the second, so that a checkpoint pretrained on single images serves pairs.
    """

    def __init__(self, width: int):
        super().__init__()
        self.embedding = nn.Embedding(3, width)

    def copy_image_row(self) -> None:
        """Makes row 2 a copy of row 1; called once after initialisation."""
        with torch.no_grad():
            self.embedding.weight[2] = self.embedding.weight[1]

    def add(self, tokens: Tokens | None, row: int | Tensor) -> Tokens | None:
        """Adds one row to every token; of `row` (B,) int64, one row for each of the B sequences."""
        if tokens is None:
            return None
        types = self.embedding.weight[row]
        return Tokens(tokens.hidden + (types if isinstance(row, int) else types.unsqueeze(1)), tokens.mask)
