"""Normalisation and the embeddings of a one-tower model against transformers' own and plain arithmetic."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, ViltConfig
from transformers.models.bert.modeling_bert import BertEmbeddings
from transformers.models.vilt.modeling_vilt import ViltEmbeddings

from renaissance.core.types import ImageInput, Tokens
from renaissance.models.embeddings import Normalize, PatchEmbeddings, TextEmbeddings, TokenTypes
from tiny_models import VOCAB, pictures, same, stirred, texts

WIDTH, PATCH, SIDE = 16, 8, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_pixels_are_normalised_by_channel() -> None:
    images = pictures(2, 8, 12)
    expected = torch.stack([(images.pixels[:, c].double() / 255 - MEAN[c]) / STD[c] for c in range(3)], dim=1).float()
    same(Normalize(MEAN, STD)(images), expected, 1e-5)


def test_padding_of_smaller_pictures_becomes_the_mean_colour_whatever_it_holds() -> None:
    images, sizes = pictures(2, 8, 12), [(8, 4), (5, 12)]
    padded = Normalize(MEAN, STD)(images._replace(sizes=sizes))
    whole = Normalize(MEAN, STD)(images)
    for picture, plain, (height, width) in zip(padded, whole, sizes, strict=True):
        same(picture[:, :height, :width], plain[:, :height, :width], 0)
        assert not picture[:, height:].any() and not picture[:, :, width:].any()


def test_normalising_leaves_nothing_in_a_checkpoint() -> None:
    assert not Normalize(MEAN, STD).state_dict()


@torch.no_grad()
def test_text_embeddings_are_berts() -> None:
    config = BertConfig(vocab_size=VOCAB, hidden_size=WIDTH, num_attention_heads=2, max_position_embeddings=20)
    theirs, ours = stirred(BertEmbeddings(config)), TextEmbeddings(VOCAB, WIDTH, 20, 0.1).eval()
    names = {"word_embeddings": "word", "position_embeddings": "position", "token_type_embeddings": "segment"}
    own = {}
    for name, tensor in theirs.state_dict().items():
        module, _, parameter = name.partition(".")
        if parameter:
            own[f"{names.get(module, 'norm')}.{parameter}"] = tensor
    ours.load_state_dict(own)
    text = texts()
    text = text._replace(token_type_ids=(torch.arange(7) > 2).long().expand(2, -1))
    same(ours(text), theirs(text.input_ids, text.token_type_ids), 1e-5)


def vilt_and_ours() -> tuple[ViltEmbeddings, PatchEmbeddings]:
    """Ours has a norm that ViLT's has not: it is made to do nothing in the comparison, see `before_norm`."""
    theirs = stirred(
        ViltEmbeddings(
            ViltConfig(hidden_size=WIDTH, num_attention_heads=2, image_size=SIDE, patch_size=PATCH, max_image_length=-1)
        )
    )
    ours = PatchEmbeddings(WIDTH, SIDE, PATCH, 0.1).eval()
    positions = theirs.position_embeddings.data
    grid = SIDE // PATCH
    ours.projection.load_state_dict(theirs.patch_embeddings.projection.state_dict())
    ours.cls_token.data.copy_(theirs.cls_token)
    ours.cls_position.data.copy_(positions[:, :1])
    ours.position.data.copy_(positions[:, 1:].transpose(1, 2).unflatten(2, (grid, grid)))
    return theirs, ours


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (16, 40), (48, 24)])
def test_patch_embeddings_are_vilts_at_any_size(size: tuple[int, int]) -> None:
    theirs, ours = vilt_and_ours()
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    # ViLT draws the order of the patches by chance, and says which it took.
    embedded, _, (order, _) = theirs.visual_embed(pixels, torch.ones(2, *size, dtype=torch.long), -1)
    index = 1 + order[..., 0] * (size[1] // PATCH) + order[..., 1]
    expected = F.layer_norm(embedded, (WIDTH,), eps=1e-12)
    actual = ours(pixels).hidden
    same(actual[:, 0], expected[:, 0], 1e-5)
    same(actual.gather(1, index[..., None].expand(-1, -1, WIDTH)), expected[:, 1:], 1e-5)


@torch.no_grad()
def test_a_padded_picture_is_embedded_as_alone() -> None:
    ours = stirred(PatchEmbeddings(WIDTH, SIDE, PATCH, 0.1))
    sizes = [(32, 16), (24, 40)]
    images = pictures(2, 40, 48)
    normalise = Normalize(MEAN, STD)
    tokens = ours(normalise(images._replace(sizes=sizes)), sizes)
    for index, (height, width) in enumerate(sizes):
        alone = ours(normalise(ImageInput(images.pixels[index : index + 1, :, :height, :width])))
        same(tokens.hidden[index][tokens.mask[index]], alone.hidden[0], 1e-5)


def test_position_tables_of_other_sizes_are_adapted() -> None:
    embeddings = PatchEmbeddings(WIDTH, 48, PATCH, 0.1)
    old = torch.randn(1, WIDTH, 4, 4)
    same(embeddings.adapt("position", old), interpolated(old, 6), 1e-6)
    assert embeddings.adapt("cls_position", old) is None
    text, longer = TextEmbeddings(VOCAB, WIDTH, 10, 0.1), torch.randn(20, WIDTH)
    same(text.adapt("position.weight", longer), longer[:10], 0)
    assert text.adapt("position.weight", longer[:5]) is None  # positions that were never trained
    assert text.adapt("word.weight", longer) is None


def interpolated(grid: Tensor, side: int) -> Tensor:
    """Bilinear with aligned corners, written out."""
    old = grid.shape[-1]
    out = torch.zeros(*grid.shape[:2], side, side)
    for row in range(side):
        for column in range(side):
            y, x = row * (old - 1) / (side - 1), column * (old - 1) / (side - 1)
            top, left = min(int(y), old - 2), min(int(x), old - 2)
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = (1 - abs(y - top - i)) * (1 - abs(x - left - j))
                out[..., row, column] += weight * grid[..., top + i, left + j]
    return out


def test_token_types_add_their_row_and_the_third_starts_as_the_second() -> None:
    types = stirred(TokenTypes(WIDTH))
    rows = types.embedding.weight.detach().clone()
    tokens = Tokens(torch.randn(2, 3, WIDTH), torch.ones(2, 3, dtype=torch.bool))
    for row in range(3):
        same(types.add(tokens, row).hidden, tokens.hidden + rows[row], 0)
    assert types.add(None, 1) is None
    assert not torch.equal(rows[1], rows[2])
    types.copy_image_row()
    same(types.embedding.weight, rows[[0, 1, 1]], 0)
