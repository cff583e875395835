"""The two whole models: against ViLT, with parts left out, frozen, padded, and at another image size."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import BeitConfig, SiglipVisionConfig, ViltConfig, ViltModel

from renaissance.core.types import Fused, ImageInput, TextInput
from renaissance.models.one_tower import OneTower
from renaissance.runs.checkpoint import LoadReport, _copy
from tiny_models import (
    FUSED,
    FUSIONS,
    MAX_TEXT_LEN,
    PATCH,
    SIDE,
    VOCAB,
    WIDTH,
    image_config,
    one_tower,
    pictures,
    same,
    stirred,
    texts,
    two_tower,
)

PARTS = ("pooled", "text", "image")
MODELS: dict[str, Callable[..., nn.Module]] = {
    **{kind: lambda pooler="double", kind=kind, **given: two_tower(kind, pooler, **given) for kind in FUSIONS},
    **{
        f"one-{side}": lambda pooler="double", side=side, **given: one_tower(side, pooler, **given)
        for side in ("text", "image")
    },
}
every_model = pytest.mark.parametrize("name", MODELS)
every_pooler = pytest.mark.parametrize("pooler", ["single", "double"])
# A softmax does not change when all its inputs move by the same amount: the keys' bias has no gradient but rounding.
KEY_BIAS = re.compile(r"\bk(ey)?(_proj)?\.bias$")


def fused(model: nn.Module, text: TextInput | None, images: ImageInput | None, **options: object) -> Fused:
    return model.fuse(
        None if text is None else model.embed_text(text),
        None if images is None else model.embed_image(images),
        **options,
    )


# ViT's modules have had two sets of names in transformers; ViLT keeps the older one.
NAMES = {
    "encoder.layer.": "layers.",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


def canonical(name: str) -> str:
    for old, new in NAMES.items():
        name = name.replace(old, new)
    return name


def with_weights_of(vilt: ViltModel) -> OneTower:
    """A one-tower model of ViT blocks with ViLT's weights."""
    model = one_tower(image_config(), "single")
    embeddings = {
        "embeddings.text_embeddings.word_embeddings": "text_embeddings.word",
        "embeddings.text_embeddings.position_embeddings": "text_embeddings.position",
        "embeddings.text_embeddings.token_type_embeddings": "text_embeddings.segment",
        "embeddings.text_embeddings.LayerNorm": "text_embeddings.norm",
        "embeddings.token_type_embeddings": "token_types.embedding",
        "embeddings.": "image_embeddings.front.0.",
        "layernorm.": "blocks.norm.",
        "layers.": "blocks.layers.",
        "pooler.": "text_pooler.",
    }
    own = {canonical(name): name for name in model.state_dict()}
    state = {}
    for name, tensor in vilt.state_dict().items():
        name = canonical(name)
        old = next(prefix for prefix in embeddings if name.startswith(prefix))
        state[own[embeddings[old] + name.removeprefix(old)]] = tensor
    types = state["token_types.embedding.weight"]  # ViLT adds the third row when it is tuned on NLVR2
    state["token_types.embedding.weight"] = torch.cat([types, types[1:]])
    model.load_state_dict(state)
    return model


@torch.no_grad()
def test_a_one_tower_of_vit_blocks_is_vilt() -> None:
    config = ViltConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=MAX_TEXT_LEN,
        image_size=SIDE,
        patch_size=PATCH,
        max_image_length=-1,
    )
    vilt = stirred(ViltModel(config), seed=5)
    model = with_weights_of(vilt)
    text, images = texts(), pictures()
    pixels = images.pixels.float() / 127.5 - 1
    theirs = vilt(text.input_ids, text.attention_mask.long(), text.token_type_ids, pixels)
    ours = fused(model, text, images)
    same(ours.pooled, theirs.pooler_output, 1e-5)
    same(ours.text, theirs.last_hidden_state[:, : text.input_ids.shape[1]], 1e-5)
    # The patches, whose order ViLT draws by chance, agree as a set.
    same(ours.image.sum(1), theirs.last_hidden_state[:, text.input_ids.shape[1] :].sum(1), 1e-4)


@torch.no_grad()
@every_pooler
@pytest.mark.parametrize("pooling", ["first", "mean", "last"])
@pytest.mark.parametrize("kind", FUSIONS)
def test_what_a_two_tower_is_asked_for_in_part_is_the_part_of_everything(kind: str, pooling: str, pooler: str) -> None:
    parts_are_of_the_whole(two_tower(kind, pooler, pooling=pooling))


@torch.no_grad()
@every_pooler
@pytest.mark.parametrize("side", ["text", "image"])
def test_what_a_one_tower_is_asked_for_in_part_is_the_part_of_everything(side: str, pooler: str) -> None:
    parts_are_of_the_whole(one_tower(side, pooler))


def parts_are_of_the_whole(model: nn.Module) -> None:
    text, image = model.embed_text(texts()), model.embed_image(pictures())
    for sides in ((text, image), (text, None), (None, image)):
        whole = model.fuse(*sides)
        assert whole.pooled.shape == (2, model.pooled_size)
        assert (whole.text is None, whole.image is None) == (sides[0] is None, sides[1] is None)
        for needs in (set(chosen) for count in (1, 2) for chosen in combinations(PARTS, count)):
            asked = model.fuse(*sides, needs=needs)
            for name in PARTS:
                same(getattr(asked, name), getattr(whole, name) if name in needs else None, 1e-6)


@every_model
def test_a_text_alone_reads_no_parameter_of_pictures_and_its_pooled_half_of_them_is_zero(name: str) -> None:
    model = MODELS[name]()
    text_only = fused(model, texts(), None)
    assert text_only.image is None
    half = model.pooled_size // 2
    assert not text_only.pooled[:, half:].any()
    assert text_only.pooled[:, :half].abs().min() > 0
    (text_only.pooled.sum() + text_only.text.square().sum()).backward()
    read = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert any(name.startswith(("text_tower", "text_embeddings")) for name in read)
    assert not [name for name in read if "image" in name or "cross" in name]
    assert not model.token_types.embedding.weight.grad[1:].any()
    # It is not what an image of which every patch is masked would give, which still leaks.
    with torch.no_grad():
        other = fused(model, texts(), pictures())
    assert not torch.allclose(other.text, text_only.text, atol=1e-3)


@torch.no_grad()
@every_model
def test_a_picture_alone_leaves_the_texts_half_zero(name: str) -> None:
    model = MODELS[name]()
    image_only = fused(model, None, pictures())
    half = model.pooled_size // 2
    assert image_only.text is None
    assert not image_only.pooled[:, :half].any()
    assert image_only.pooled[:, half:].abs().min() > 0


@torch.no_grad()
@every_model
def test_the_other_side_is_seen(name: str) -> None:
    """Guards the tests of absence: with both sides there, each changes what comes out of the other."""
    model = MODELS[name]()
    one = fused(model, texts(), pictures())
    other_picture = fused(model, texts(), pictures(seed=9))
    other_text = fused(model, texts(seed=9), pictures())
    for changed, still in ((other_picture.text, one.text), (other_text.image, one.image)):
        assert (changed - still).abs().amax((1, 2)).min() > 1e-2


@torch.no_grad()
@every_model
@every_pooler
def test_padding_changes_nothing(name: str, pooler: str) -> None:
    model = MODELS[name](pooler)
    padding_is_unseen(model)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_padding_changes_nothing_where_towers_have_no_cls_token(pooling: str) -> None:
    padding_is_unseen(two_tower("shared", pooling=pooling))


def padding_is_unseen(model: nn.Module) -> None:
    text, images = texts((7, 4)), pictures()
    plain = fused(model, text, images)
    padded = fused(model, texts((7, 4), padding=5, filler=3), images)
    for row, length in enumerate((7, 4)):
        alone = text._replace(**{part: getattr(text, part)[row : row + 1, :length] for part in text._fields})
        single = fused(model, alone, ImageInput(images.pixels[row : row + 1]))
        for other in (plain, padded):
            same(other.pooled[row], single.pooled[0], 1e-5)
            same(other.text[row, :length], single.text[0], 1e-5)
            same(other.image[row], single.image[0], 1e-5)


@torch.no_grad()
@every_pooler
@pytest.mark.parametrize("side", ["text", "image"])
def test_pictures_that_keep_their_aspect_are_each_as_alone_in_a_one_tower(side: str, pooler: str) -> None:
    model, text = one_tower(side, pooler), texts((7, 4))
    sizes = [(32, 16), (24, 40)]
    images = pictures(2, 40, 48)._replace(sizes=sizes)
    together = fused(model, text, images)
    mask = model.embed_image(images).mask
    for row, (height, width) in enumerate(sizes):
        picture = ImageInput(images.pixels[row : row + 1, :, :height, :width])
        words = text._replace(**{part: getattr(text, part)[row : row + 1] for part in text._fields})
        alone = fused(model, words, picture)
        same(together.pooled[row], alone.pooled[0], 1e-5)
        same(together.text[row][text.attention_mask[row]], alone.text[0][text.attention_mask[row]], 1e-5)
        same(together.image[row][mask[row]], alone.image[0], 1e-5)


@torch.no_grad()
def test_a_one_tower_pools_as_its_encoder_is_pooled() -> None:
    """SigLIP's images have no CLS token: their mean stands for them, over real patches."""
    config = SiglipVisionConfig(
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=SIDE,
        patch_size=PATCH,
    )
    model = one_tower(config)
    whole = fused(model, texts(), pictures())
    expected = torch.tanh(model.image_pooler.dense(whole.image.mean(1)))
    same(whole.pooled[:, WIDTH:], expected, 1e-5)
    same(whole.pooled[:, :WIDTH], torch.tanh(model.text_pooler.dense(whole.text[:, 0])), 1e-5)


@torch.no_grad()
@every_model
def test_the_second_pictures_type_starts_as_the_firsts(name: str) -> None:
    model = MODELS[name]()
    model.token_types.copy_image_row()
    text, image = model.embed_text(texts()), model.embed_image(pictures())
    first = model.fuse(text, image)
    for actual, expected in zip(model.fuse(text, image, slot=1), first, strict=True):
        same(actual, expected, 0)
    model.token_types.embedding.weight[2].normal_(generator=torch.Generator().manual_seed(0))
    second = model.fuse(text, image, slot=1)
    assert (second.pooled - first.pooled).abs().amax(1).min() > 1e-3
    for actual, expected in zip(model.fuse(text, image), first, strict=True):
        same(actual, expected, 0)


FROZEN = [
    ("shared", "text_tower", ("text_tower.",)),
    ("shared", "image_tower", ("image_tower.",)),
    ("shared", "fusion", ("fusion.",)),
    ("one-text", "encoder", ("blocks.", "text_embeddings.")),
    ("one-image", "encoder", ("blocks.", "image_embeddings.")),
]


@pytest.mark.parametrize(("name", "part", "prefixes"), FROZEN)
def test_frozen_parts_get_no_gradient_and_no_dropout_and_all_else_does(name: str, part: str, prefixes: tuple) -> None:
    model = MODELS[name]()
    model.freeze(model.pretrained if part == "encoder" else [part])
    model.train()
    modes = {path: module.training for path, module in model.named_modules() if path}
    assert modes == {path: not f"{path}.".startswith(prefixes) for path in modes}
    everything = fused(model, texts(), pictures())
    sum(side.square().sum() for side in everything).backward()
    got = {
        name: parameter.grad is not None and bool(parameter.grad.any()) for name, parameter in model.named_parameters()
    }
    assert got == {name: not name.startswith(prefixes) for name in got} | {
        name: got[name] for name in got if KEY_BIAS.search(name) and not name.startswith(prefixes)
    }
    assert all(p.requires_grad != name.startswith(prefixes) for name, p in model.named_parameters())
    model.eval()
    assert not any(module.training for module in model.modules())


def test_a_frozen_tower_runs_without_a_graph() -> None:
    model = two_tower()
    model.freeze(["text_tower"])
    watched: dict[str, bool] = {}
    for name in ("text_tower", "image_tower"):
        getattr(model, name).register_forward_hook(
            lambda tower, inputs, output, name=name: watched.update({name: output.hidden.requires_grad})
        )
    model.train()
    once, again = model.embed_text(texts()), model.embed_text(texts())
    model.embed_image(pictures())
    assert watched == {"text_tower": False, "image_tower": True}
    same(once.hidden, again.hidden, 0)  # no dropout
    assert once.hidden.requires_grad  # through the projection, which still trains
    with torch.no_grad():
        model.embed_image(pictures())
    assert not watched["image_tower"]


def resized(positions: torch.Tensor, side: int) -> torch.Tensor:
    """ViT's table (1, 1 + g * g, D) on another grid: bicubic, the CLS row as it is."""
    old = round((positions.shape[1] - 1) ** 0.5)
    grid = positions[:, 1:].transpose(1, 2).unflatten(2, (old, old))
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], 1)


def load(model: nn.Module, source: nn.Module) -> LoadReport:
    report = LoadReport("a checkpoint")
    _copy(model, source.state_dict(), report, model.adapt)
    return report


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("shared", "image_tower.model.embeddings.position_embeddings"),
        ("one-image", "image_embeddings.front.0.position_embeddings"),
        ("one-text", "image_embeddings.position"),
    ],
)
def test_a_checkpoint_serves_another_picture_size(name: str, table: str) -> None:
    source, model = MODELS[name](image_size=SIDE), stirred(MODELS[name](image_size=2 * SIDE), seed=8)
    report = load(model, source)
    assert report.resized == [table]
    assert not report.unexpected
    old, side = source.state_dict()[table], 2 * SIDE // PATCH
    expected = (
        F.interpolate(old, size=(side, side), mode="bilinear", align_corners=True)
        if name == "one-text"
        else resized(old, side)
    )
    for own, tensor in model.state_dict().items():
        same(tensor, expected if own == table else source.state_dict()[own], 1e-6)
    assert fused(model, texts(), pictures(2, 2 * SIDE, 2 * SIDE)).pooled.isfinite().all()


def test_relative_tables_of_a_checkpoint_are_resized_too() -> None:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BeitConfig(**sizes, patch_size=PATCH, use_relative_position_bias=True)
    source, model = (two_tower(image=config, image_size=side) for side in (SIDE, 2 * SIDE))
    report = load(model, source)
    assert not report.unexpected
    (table,) = report.resized
    grid, rest = source.state_dict()[table].split([49, 3])  # offsets of 4 x 4 patches, and those from and to CLS
    wider = F.interpolate(grid.T.view(1, 2, 7, 7), size=(15, 15), mode="bilinear", align_corners=False)
    same(model.state_dict()[table], torch.cat([wider.flatten(2)[0].T, rest]), 1e-6)


@torch.no_grad()
def test_a_checkpoint_serves_shorter_texts_of_a_vision_encoder() -> None:
    source, model = one_tower("image", text_len=20), one_tower("image", text_len=12)
    assert load(model, source).resized == ["text_embeddings.position.weight"]
    text = texts((7, 4))
    for actual, expected in zip(fused(model, text, pictures()), fused(source, text, pictures()), strict=True):
        same(actual, expected, 1e-6)


@pytest.mark.parametrize("pooler", ["single", "double"])
def test_a_checkpoints_names_and_sizes(pooler: str) -> None:
    model = two_tower("separate", pooler)
    assert model.pooled_size == FUSED * (2 if pooler == "double" else 1)
    assert {name.split(".")[0] for name in model.state_dict()} == {
        *("text_tower", "image_tower", "text_projection", "image_projection", "token_types", "fusion", "text_pooler"),
        *(["image_pooler"] if pooler == "double" else []),
    }
