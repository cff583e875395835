"""Heat maps, against versions that follow attention step by step, of models of every kind with random weights."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import tiny_models
from models.families import INSTALLED, can_be_one_tower, picture_side, small_config
from renaissance.core.errors import UserError
from renaissance.data.collate import Source
from renaissance.data.transforms import make_transform
from renaissance.inference.explain import follow, transport_plan
from renaissance.inference.heat_map import METHODS
from renaissance.inference.loaded import Loaded
from renaissance.models import attention, backbones
from renaissance.models.attention import SeenAttention
from renaissance.models.backbones.families import FAMILIES, IMAGE
from renaissance.models.heads import ClassifierHead, ItmHead, MlmHead
from renaissance.tasks.vqa import Vqa
from tiny_models import (
    FUSIONS,
    MODELS,
    PATCH,
    SIDE,
    VOCAB,
    every_model,
    one_tower,
    pictures,
    same,
    stirred,
    texts,
    two_tower,
)

TEXT, PICTURE = "a red square is left of the blue circle", pictures(1).pixels[0]


def loaded(model: nn.Module, *, heads: str = "mlm itm vqa", key: str = "vit", patch: int | None = PATCH) -> Loaded:
    """What `renaissance.load` makes of a checkpoint of this model."""
    made, size = Loaded.__new__(Loaded), model.pooled_size
    answering = Vqa.__new__(Vqa)
    nn.Module.__init__(answering)
    answering.head, answering.labels = ClassifierHead(size, 8, 3), ("yes", "no", "2")
    every = {
        "mlm": SimpleNamespace(head=MlmHead(model.width, VOCAB)),
        "itm": SimpleNamespace(head=ItmHead(size)),
        "vqa": answering,
    }
    for place, (name, task) in enumerate(every.items()):
        stirred(task.head, place + 1)
        if name == "mlm":
            made.filling = task.head if name in heads else None
        elif name == "itm":
            made.matching = task.head if name in heads else None
    made.answering = answering if "vqa" in heads else None
    made.model, made.tokenizer, made.device, made.path = model, tiny_models.tokenizer(), "cpu", "x.ckpt"
    made.heads = {name: task for name, task in every.items() if name in heads}
    sizes = SimpleNamespace(max_text_len=tiny_models.MAX_TEXT_LEN, patch_size=patch)
    made.settings = SimpleNamespace(model=sizes, objectives=SimpleNamespace(blind=False))
    made.image_source = Source([], make_transform(key, SIDE, patch_size=PATCH, seed=0))
    return made


@every_model
def test_maps_have_the_shape_of_the_patches_and_leave_the_model_as_it_is(name: str):
    model, patch = MODELS[name](), None if name.endswith(("Swin", "ResNet")) else PATCH
    asked, before = loaded(model, patch=patch), {key: each.clone() for key, each in model.state_dict().items()}
    plain = model.fuse(model.embed_text(texts()), model.embed_image(pictures()))
    side = {"two-tower of ResNet": 1}.get(name, 4)
    for method in METHODS:
        heat = asked.explain(PICTURE, TEXT, "red", method)
        assert heat.values.shape == (side, side) and heat.values.dtype == np.float64
        assert heat.values.min() >= 0 and heat.values.sum() == pytest.approx(1)
        assert heat[1:] == ("red", method, "word", (0, 0, 1, 1))
    for target, said in ((None, "match"), ("match", "match"), ("no", "no")):
        heat = asked.explain(PICTURE, TEXT, target=target)
        assert heat.target == said and heat.word is None and heat.values.sum() == pytest.approx(1)
    again = model.fuse(model.embed_text(texts()), model.embed_image(pictures()))
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))
    assert all(torch.equal(each, before[key]) for key, each in model.state_dict().items())
    assert all(each.grad is None and each.requires_grad for each in model.parameters())


ONE_TOWERS = [kind for kind in INSTALLED if can_be_one_tower(kind)]


@pytest.mark.parametrize("kind", ONE_TOWERS)
def test_the_attention_of_every_family_is_seen_and_changes_nothing(kind: str):
    model = one_tower(small_config(kind))
    text, image = model.embed_text(texts((5,))), model.embed_image(pictures(1))
    plain = model.fuse(text, image)
    with SeenAttention() as seen:
        looked_at = model.fuse(text, image)
    for one, other in zip(plain, looked_at, strict=True):
        same(one, other, 1e-5)
    tokens = text.hidden.shape[1] + image.hidden.shape[1]
    assert [each.shape for each in seen.probabilities] == [(1, 2, tokens, tokens)] * 2
    torch.testing.assert_close(seen.probabilities[0].sum(-1), torch.ones(1, 2, tokens))
    assert not attention._IS_SEEN.get() and sum(loaded(model).explain(PICTURE, TEXT).values.flat) == pytest.approx(1)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_attention_of_every_fusion_is_seen_and_changes_nothing(fusion: str):
    model = two_tower(fusion)
    text, image = model.embed_text(texts()), model.embed_image(pictures())
    plain = model.fuse(text, image)
    with SeenAttention() as seen:
        looked_at = model.fuse(text, image)
    for one, other in zip(plain, looked_at, strict=True):
        same(one, other, 1e-5)
    assert len(seen.probabilities) == {"merged": 2}.get(fusion, 8)


class Weighed:
    """`plain_attention` whose probabilities are multiplied by ones; the gradient of these is probability times gradient."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.probabilities: list[Tensor] = []
        self.ones: list[Tensor] = []
        monkeypatch.setattr(attention, "plain_attention", self)
        monkeypatch.setattr(attention, "is_plain_faster", lambda *_: True)
        monkeypatch.setattr(attention.Attention, "_is_cheaper", lambda *_: False)
        monkeypatch.setattr(backbones.attention, "plain_attention", self)
        monkeypatch.setattr(backbones.attention, "is_plain_faster", lambda *_: True)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, _: float) -> Tensor:
        scores = query @ key.transpose(-1, -2)
        self.probabilities.append((scores if bias is None else scores + bias).softmax(-1))
        self.ones.append(torch.ones_like(self.probabilities[-1]).requires_grad_())
        return (self.probabilities[-1] * self.ones[-1]) @ value


def published(weights: list[np.ndarray], length: int, kind: str) -> np.ndarray:
    """R^ti of "Generic Attention-model Explainability": its rules as they are printed, of means over heads as of equation 5.

    Their 0/0, of a side that has not attended to itself, is 0.
    """
    sizes = {"t": length, "i": next(size for each in weights for size in each.shape if size != length)}
    R = {s + q: np.eye(sizes[s]) if s == q else np.zeros((sizes[s], sizes[q])) for s in "ti" for q in "ti"}

    def self_attention(s: str, q: str, A: np.ndarray) -> None:
        R[s + s], R[s + q] = R[s + s] + A @ R[s + s], R[s + q] + A @ R[s + q]  # 6, 7

    def bar(R_xx: np.ndarray) -> np.ndarray:
        result = np.eye(len(R_xx))
        for m, row in enumerate(R_xx - np.eye(len(R_xx))):  # 8
            S = sum(row)
            for n, hat in enumerate(row):
                result[m, n] += hat / S if S else 0.0  # 9
        return result

    def cross_attention(s: str, q: str, A: np.ndarray, came: dict[str, np.ndarray]) -> None:
        addition = bar(R[s + s]).T @ A @ bar(came[q + q])
        R[s + s] = R[s + s] + A @ came[q + s]  # 11
        R[s + q] = R[s + q] + addition  # 10

    for at in range(0, len(weights), 4):
        first, second, third, fourth = weights[at : at + 4]
        came = dict(R)
        if kind == "shared":
            cross_attention("t", "i", first, came)
            cross_attention("i", "t", second, came)
            self_attention("t", "i", third)
            self_attention("i", "t", fourth)
        else:
            self_attention("t", "i", first)
            cross_attention("t", "i", second, came)
            self_attention("i", "t", third)
            cross_attention("i", "t", fourth, came)
    return R["ti"]


def naive(
    model: nn.Module, weights: list[np.ndarray], length: int, first_patch: int, method: str, word: int
) -> np.ndarray:
    """The map of one word from the means over heads, with a matrix for each pair of sides, layer by layer."""
    kind = model.fusion.kind if hasattr(model, "fusion") else "merged"
    if kind == "merged":
        flow = np.eye(len(weights[0]))
        for each in weights:
            flow = (flow + each @ flow) / (2 if method == "rollout" else 1)
        return flow[word, length + first_patch :]
    if method == "gradient":
        return published(weights, length, kind)[word, first_patch:]
    old = new = 0.5
    patches = max(weights[0].shape) if kind == "shared" else weights[1].shape[1]
    tt, ii = np.eye(length), np.eye(patches)
    ti, it = np.zeros((length, patches)), np.zeros((patches, length))
    for at in range(0, len(weights), 4):
        if kind == "shared":  # text over image, image over text, each over itself
            a_ti, a_it, a_tt, a_ii = weights[at : at + 4]
            tt, ti, it, ii = (
                old * tt + new * a_ti @ it,
                old * ti + new * a_ti @ ii,
                old * it + new * a_it @ tt,
                old * ii + new * a_it @ ti,
            )
            tt, ti = old * tt + new * a_tt @ tt, old * ti + new * a_tt @ ti
            it, ii = old * it + new * a_ii @ it, old * ii + new * a_ii @ ii
        else:  # text over itself and over the image; image over itself and over the text as it came
            a_tt, a_ti, a_ii, a_it = weights[at : at + 4]
            tt_came, ti_came = tt, ti
            tt, ti = old * tt + new * a_tt @ tt, old * ti + new * a_tt @ ti
            tt, ti = old * tt + new * a_ti @ it, old * ti + new * a_ti @ ii
            it, ii = old * it + new * a_ii @ it, old * ii + new * a_ii @ ii
            it, ii = old * it + new * a_it @ tt_came, old * ii + new * a_it @ ti_came
    return ti[word, first_patch:]


@pytest.mark.parametrize("method", ["rollout", "gradient"])
@pytest.mark.parametrize("name", ["shared", "separate", "merged", "one-tower of BERT", "one-tower of ViT"])
def test_attention_is_followed_as_a_naive_version_does(name: str, method: str, monkeypatch: pytest.MonkeyPatch):
    model = two_tower(name) if name in FUSIONS else MODELS[name]()
    asked = loaded(model)
    heat = asked.explain(PICTURE, TEXT, "red", method)
    ids = torch.tensor(
        [[2, *(tiny_models.WORDS.index(word) if word in tiny_models.WORDS else 1 for word in TEXT.split()), 3]]
    )
    red, ids[0, 2] = int(ids[0, 2]), 4  # masked, behind [CLS] and "a"
    text = texts((ids.shape[1],))._replace(input_ids=ids)
    assert red == tiny_models.WORDS.index("red")
    embedded, image = model.embed_text(text), model.embed_image(asked._shown([PICTURE]))
    watch = Weighed(monkeypatch)
    fused = model.fuse(embedded, image)
    weights = [each[0].mean(0) for each in watch.probabilities]
    if method == "gradient":
        logit = asked.filling(fused.text[0, 2:3])[0, red]
        slopes = torch.autograd.grad(logit, watch.ones, materialize_grads=True)
        weights = [each[0].clamp(min=0).mean(0) for each in slopes]
    expected = naive(model, [each.detach().double().numpy() for each in weights], ids.shape[1], 1, method, 2)
    np.testing.assert_allclose(heat.values.ravel(), expected / expected.sum(), rtol=1e-4, atol=1e-6)
    assert np.ptp(heat.values) > 1e-3  # and says something


def test_as_many_words_as_patches_are_told_apart():
    """Of both sides 17 tokens, so that attention between them is as large as within them."""
    model = two_tower("shared")
    long = " ".join(["red"] * 15)
    assert model.embed_image(pictures(1)).hidden.shape[1] == 17
    for method in METHODS:
        shorter, same_length = (loaded(model).explain(PICTURE, text, "red", method) for text in (long[4:], long))
        assert same_length.values.shape == (4, 4) and np.abs(same_length.values - shorter.values).max() < 0.2
    one = torch.rand(17, 18)
    with pytest.raises(KeyError):
        follow([[one]], 17, 17, 0.5)


def test_a_map_that_holds_nothing_is_told_from_an_even_one():
    asked = loaded(two_tower(), heads="itm")
    with torch.no_grad():
        for each in asked.matching.parameters():
            each.zero_()
    nothing = asked.explain(PICTURE, TEXT)
    assert nothing.is_empty and nothing.values.shape == (4, 4) and not nothing.peaks_at(0, 0)
    assert nothing.title == "image-text match, by gradient: no patch weighs anything"
    found = asked.explain(PICTURE, TEXT, "red", "rollout")
    assert not found.is_empty and found.title == 'word "red", by rollout'
    row, column = np.unravel_index(found.values.argmax(), found.values.shape)
    assert found.peaks_at(row, column) and not found.peaks_at(row - 1, column)
    tied = found._replace(values=np.array([[0.5, 0.5], [0, 0]]))
    assert not tied.peaks_at(0, 0) and not tied.peaks_at(0, 1)


@pytest.mark.parametrize("method", METHODS)
def test_numbers_that_are_not_finite_are_refused(method: str):
    asked = loaded(two_tower())
    with torch.no_grad():
        next(iter(asked.model.image_projection.parameters())).fill_(float("nan"))
    with pytest.raises(UserError, match="the map of x.ckpt holds numbers that are not finite"):
        asked.explain(PICTURE, TEXT, "red", method)


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_four_layers_are_followed_by_the_published_rules(kind: str):
    """So that what equation 11 adds to a side is read again, which two layers do not."""
    shapes = {"shared": "ti it tt ii", "separate": "tt ti ii it"}[kind].split()
    sizes, generator = {"t": 5, "i": 7}, torch.Generator().manual_seed(0)
    layers = [[torch.rand(sizes[s], sizes[q], generator=generator).double() for s, q in shapes] for _ in range(4)]
    expected = published([each.numpy() for layer in layers for each in layer], 5, kind)
    np.testing.assert_allclose(follow(layers, 5, 7, 1)[:5, 5:].numpy(), expected, rtol=1e-9)


def test_rollout_keeps_all_that_flows():
    layers = [
        [torch.rand(5, 3).softmax(-1), torch.rand(3, 5).softmax(-1), torch.rand(5, 5).softmax(-1)] for _ in range(3)
    ]
    torch.testing.assert_close(follow(layers, 5, 3, 0.5).sum(-1), torch.ones(8))


def test_transport_moves_equal_masses_at_the_least_cost():
    cost = torch.rand(6, 9, generator=torch.Generator().manual_seed(0))
    plan = transport_plan(cost)
    torch.testing.assert_close(plan.sum(0), torch.full((9,), 1 / 9).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(plan.sum(1), torch.full((6,), 1 / 6).double(), rtol=0.05, atol=0)
    square = torch.rand(7, 7, generator=torch.Generator().manual_seed(1))
    rows, columns = linear_sum_assignment(square)
    exact = np.zeros((7, 7))
    exact[rows, columns] = 1 / 7
    np.testing.assert_allclose(transport_plan(square, rounds=2000).numpy(), exact, atol=1e-3)
    costs = [float((transport_plan(square, rounds=rounds) * square).sum()) for rounds in (1, 10, 50, 2000)]
    assert (
        all(later < earlier for earlier, later in pairwise(costs)) and costs[2] < 1.05 * (exact * square.numpy()).sum()
    )


@pytest.mark.parametrize("kind", [kind for kind in INSTALLED if FAMILIES[kind].modality == IMAGE])
def test_patches_lie_where_their_encoder_has_them(kind: str, monkeypatch: pytest.MonkeyPatch):
    """A patch that changes changes its own token the most; pyramids of random weights that mix all tokens are not held to it."""
    from renaissance.inference import explain

    config = small_config(kind)
    side, patch = picture_side(config), backbones.encoder_dimensions(config)["patch_size"]
    tower = stirred(backbones.build_vision_tower(config, weights=None, image_size=side))
    asked = loaded(two_tower(), patch=patch)
    asked.image_source = Source([], make_transform("vit", side, patch_size=PATCH, seed=0))
    asked.model.image_tower, asked.model.image_projection = tower, nn.Identity()
    first = pictures(1, side, side).pixels[0]
    if kind == "groupvit_vision_model":
        with pytest.raises(UserError, match=r"tokens of the image encoder of x.ckpt lie on no grid"):
            explain._patches(asked, first)
        return
    with torch.no_grad():
        before = explain._patches(asked, first)
        assert before.rows == before.columns > 1 and before.box == (0, 0, 1, 1)
        if not patch and kind != "timm_wrapper":
            return
        step = side // before.rows
        for place in range(before.rows * before.columns):
            row, column = divmod(place, before.columns)
            changed = first.clone()
            changed[:, row * step : (row + 1) * step, column * step : (column + 1) * step] += 128  # of 256
            moved = (explain._patches(asked, changed).tokens.hidden - before.tokens.hidden)[0].norm(dim=-1)
            assert int(moved[before.first :].argmax()) == place


@pytest.mark.parametrize("key", ["vit", "pixelbert"])
@pytest.mark.parametrize("size", [(64, 64), (40, 90), (300, 30), (33, 700)])
def test_the_box_is_the_part_of_the_picture_that_the_model_sees(key: str, size: tuple[int, int]):
    """Where a white spot of the picture lies in the pixels after the transform, its share of the box says."""
    height, width = size
    transform = make_transform(key, SIDE, patch_size=PATCH, seed=0)
    left, top, right, bottom = transform.shown(height, width)
    at_x, at_y = int(width * (0.6 * left + 0.4 * right)), int(height * (0.3 * top + 0.7 * bottom))
    pixels = torch.zeros(3, height, width, dtype=torch.uint8)
    spot = max(2, min(size) // 8)
    pixels[:, at_y : at_y + spot, at_x : at_x + spot] = 255
    seen = transform(pixels, 0, 0)[0].double()
    y, x = (
        seen.sum(1 - axis) @ (torch.arange(seen.shape[axis]).double() + 0.5) / seen.sum() / seen.shape[axis]
        for axis in (0, 1)
    )
    expected_x = ((at_x + spot / 2) / width - left) / (right - left)
    expected_y = ((at_y + spot / 2) / height - top) / (bottom - top)
    assert (float(x), float(y)) == pytest.approx((expected_x, expected_y), abs=0.03)


def test_a_picture_of_its_own_aspect_has_a_grid_of_its_own():
    heat = loaded(MODELS["one-tower of ViT"](), key="pixelbert").explain(
        torch.zeros(3, 32, 50, dtype=torch.uint8), TEXT, "red"
    )
    assert heat.values.shape == (4, 6) and heat.box == (0, 0, 1, 1)
    wide = loaded(two_tower()).explain(torch.zeros(3, 32, 64, dtype=torch.uint8), TEXT, "red")
    assert wide.values.shape == (4, 4) and wide.box == (0.25, 0, 0.75, 1)


def test_masks_phrases_and_answers():
    asked = loaded(two_tower())
    masked = asked.explain(PICTURE, "a [MASK] square is left of the blue circle")
    assert (masked.word, masked.target) == ("[MASK]", "word")
    # The word "red" is asked for where it is masked, so the texts are one; the piece whose logit is followed differs.
    words = asked.explain(PICTURE, TEXT, "red", "rollout").values
    np.testing.assert_array_equal(
        words, asked.explain(PICTURE, "a [MASK] square is left of the blue circle", None, "rollout").values
    )
    assert asked.explain(PICTURE, TEXT, "RED square").word == "RED square"
    twice = "a red square and a red circle"  # the first of two
    first, phrase = (asked.explain(PICTURE, twice, word, "rollout").values for word in ("red", "red circle"))
    np.testing.assert_array_equal(
        first, asked.explain(PICTURE, twice.replace("red", "[MASK]", 1), None, "rollout").values
    )
    assert not np.array_equal(first, phrase)
    assert not np.array_equal(asked.explain(PICTURE, TEXT, "red square", "rollout").values, words)
    answer = loaded(two_tower(), heads="vqa")
    assert answer.explain(PICTURE, TEXT).target in ("yes", "no", "2")
    assert answer.explain(PICTURE, TEXT, "red", target="2").title == 'word "red" for answer "2", by gradient'
    assert answer.explain(PICTURE, TEXT, method="rollout").title == "pooled vector, by rollout"
    expected = asked.explain(PICTURE, TEXT, "red").values
    asked.model.requires_grad_(False)
    with torch.inference_mode():
        np.testing.assert_array_equal(asked.explain(PICTURE, TEXT, "red").values, expected)


def test_refusals():
    asked, no_words, answers = (loaded(two_tower(), heads=heads) for heads in ("mlm itm", "itm", "vqa"))
    blind = loaded(two_tower())
    blind.settings.objectives.blind = True
    swin = loaded(two_tower(), patch=4)
    for call, sentence in (
        (lambda: asked.explain(PICTURE, TEXT, "dog"), "word='dog' is not in the text 'a red square"),
        (lambda: asked.explain(PICTURE, TEXT, "squar"), "word='squar' is not in the text"),
        (lambda: asked.explain(PICTURE, "red [SEP] blue", "[SEP]"), "word='[SEP]' is a special token"),
        (lambda: asked.explain(PICTURE, TEXT, " "), "word=' ' is not in the text"),
        (lambda: asked.explain(PICTURE, "red " * 30 + "circle", "circle"), "is not within the first 20 tokens"),
        (
            lambda: asked.explain(PICTURE, TEXT, "red", "magic"),
            "method='magic' is not allowed: give one of gradient, rollout",
        ),
        (lambda: asked.explain(PICTURE, TEXT, 5), "word=5 is no text: give one or more words of the text."),
        (lambda: asked.explain(PICTURE, TEXT, ["red"]), "word=['red'] is no text"),
        (lambda: asked.explain(None, TEXT, "red"), "explain needs an image and a text"),
        (lambda: asked.explain(5, TEXT, "red"), "image=int is no readable image"),
        (lambda: asked.explain("no.png", TEXT, "red"), "image=no.png cannot be read"),
        (lambda: asked.explain(PICTURE, TEXT, method="transport"), "method=transport aligns a word with the patches"),
        (lambda: asked.explain(PICTURE, TEXT, "red", "rollout", "match"), "target='match' is of method=gradient alone"),
        (lambda: asked.explain(PICTURE, TEXT, target="yes"), "has no head for answers (its heads: mlm, itm)"),
        (
            lambda: answers.explain(PICTURE, TEXT, target="green"),
            "target='green' is no answer of x.ckpt; it has yes, no, 2",
        ),
        (lambda: answers.explain(PICTURE, TEXT, "red"), "has no head for masked words (its heads: vqa)"),
        (lambda: no_words.explain(PICTURE, "a [MASK]", "[MASK]"), "has no head for masked words (its heads: itm)"),
        (lambda: blind.explain(PICTURE, TEXT, "red"), "trained with blind=True"),
        (lambda: swin.explain(PICTURE, TEXT, "red"), "the 17 tokens of the image encoder of x.ckpt lie on no grid"),
    ):
        with pytest.raises(UserError) as raised:
            call()
        assert sentence in str(raised.value)
