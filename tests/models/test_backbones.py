"""Every family, tiny and random, against the properties that the program counts on.

The reference is transformers' own model of the family, saved to a folder and read back through `weights=`: so
every family's pretrained path is walked too.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import transformers
from families import DUALS, INSTALLED, READ_PADDING, REST, can_be_one_tower, picture_side, small_config
from torch import Tensor, nn

from renaissance.core.errors import UserError
from renaissance.core.types import TextInput
from renaissance.models import backbones
from renaissance.models.backbones.families import DUAL, FAMILIES, IMAGE, TEXT
from renaissance.models.execution import checkpointed
from waits import Watch

TEXTS = [kind for kind in INSTALLED if FAMILIES[kind].modality == TEXT]
PICTURES = [kind for kind in INSTALLED if FAMILIES[kind].modality == IMAGE]
ONE_TOWER = [kind for kind in INSTALLED if can_be_one_tower(kind)]
# Stages of convolutions and windows: a far corner does not reach the first token of a shallow one.
LOCAL = [kind for kind in PICTURES if FAMILIES[kind].names.get("hidden_size") == "" and kind != "timm_wrapper"]
# A softmax does not change when all its inputs move by the same amount: the keys' bias has no gradient but rounding.
WITHOUT_GRADIENT = re.compile(r"\bk(ey)?(_proj|_lin)?\.bias$")

LENGTH, PADDING = 7, 5


class Pretrained(NamedTuple):
    """A family's own model with random weights, and the folder that holds it."""

    model: nn.Module
    folder: str


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pretrained]:
    made: dict[str, Pretrained] = {}

    def make(kind: str) -> Pretrained:
        if kind not in made:
            config = small_config(kind)
            mapped = type(config) in transformers.MODEL_MAPPING
            torch.manual_seed(0)
            with torch.random.fork_rng():
                model = transformers.AutoModel.from_config(config) if mapped else _class(kind)(config)
                stir(model)
                settle_batch_norms(model, kind)
                made[kind] = save(model, tmp_path_factory.mktemp(kind))
        return made[kind]

    return make


def _class(kind: str) -> type:
    return getattr(transformers, FAMILIES[kind].model)


def save(model: nn.Module, folder: object) -> Pretrained:
    model.save_pretrained(folder)
    return Pretrained(model.eval(), str(folder))


@torch.no_grad()
def stir(model: nn.Module) -> None:
    """Gives every parameter an effect: families start with zeros, and with 1e-6 in places."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
        else:
            parameter.add_(torch.randn_like(parameter) * 0.1)


@torch.no_grad()
def settle_batch_norms(model: nn.Module, kind: str) -> None:
    """Gives batch norms the statistics of some images; through those they start with, an image fades to nothing."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        model.train()(pixel_values=an_input(kind))


def some_text(padding: int = 0, seed: int = 1) -> TextInput:
    """Two texts of LENGTH tokens, then padding that holds anything."""
    ids = torch.randint(6, 60, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    filler = torch.randint(6, 60, (2, padding), generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(LENGTH + padding).expand(2, -1) < LENGTH
    return TextInput(torch.cat([ids, filler], 1), mask, torch.zeros_like(mask, dtype=torch.long))


def some_pictures(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def build(kind: str, weights: str | None = None, config: object = None, **options: object) -> nn.Module:
    make = backbones.build_text_tower if FAMILIES[kind].modality == TEXT else backbones.build_vision_tower
    return make(config or small_config(kind), weights=weights, **options).eval()


def an_input(kind: str) -> TextInput | Tensor:
    return some_text() if FAMILIES[kind].modality == TEXT else some_pictures(picture_side(small_config(kind)))


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def as_tokens(hidden: Tensor) -> Tensor:
    return hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden


@pytest.mark.parametrize("kind", INSTALLED)
def test_tower_equals_the_family_s_own_model(kind: str, pretrained: Callable[[str], Pretrained]) -> None:
    model, folder = pretrained(kind)
    tower = build(kind, folder, backbones.read_config(folder))
    with torch.no_grad():
        if FAMILIES[kind].modality == TEXT:
            text = some_text(PADDING)
            part = FAMILIES[kind].part
            encoder = model.get_submodule(part) if part else model
            if model.config.is_encoder_decoder:
                encoder = model.get_encoder()
            expected = encoder(input_ids=text.input_ids, attention_mask=text.attention_mask.long()).last_hidden_state
            close(tower(text).hidden[:, :LENGTH], expected[:, :LENGTH])
            assert torch.equal(tower(text).mask, text.attention_mask)
        else:
            pixels = an_input(kind)
            options = {"do_pooling": False} if kind == "timm_wrapper" else {}
            close(tower(pixels).hidden, as_tokens(model(pixel_values=pixels, **options).last_hidden_state))
    dims = backbones.encoder_dimensions(tower.config, folder)
    assert tower(an_input(kind)).hidden.shape[-1] == tower.hidden_size == dims["hidden_size"]


@pytest.mark.parametrize("kind", TEXTS)
def test_padding_changes_nothing(kind: str, pretrained: Callable[[str], Pretrained]) -> None:
    tower = build(kind, pretrained(kind).folder)
    with torch.no_grad():
        alone = tower(some_text()).hidden
        for seed in (2, 3):
            close(tower(some_text(PADDING, seed)).hidden[:, :LENGTH], alone)


@pytest.mark.parametrize("kind", INSTALLED)
def test_what_comes_last_moves_what_comes_first(kind: str, pretrained: Callable[[str], Pretrained]) -> None:
    tower, given = build(kind, pretrained(kind).folder), an_input(kind)
    if FAMILIES[kind].modality == TEXT:
        ids = given.input_ids.clone()
        ids[:, -1] = 5
        changed = given._replace(input_ids=ids)
    else:
        changed = given.clone()
        corner = 8 if kind not in LOCAL else changed.shape[-1] // 2
        changed[:, :, -corner:, -corner:] *= -1
    with torch.no_grad():
        before, after = tower(given).hidden, tower(changed).hidden
    moved = (after - before).abs().amax(dim=(0, 2)) / before.std()
    if FAMILIES[kind].causal:
        assert moved[:-1].max() == 0 and moved[-1] > 1e-3 and tower.pooling == "last"
    else:
        assert moved[-1 if kind in LOCAL else 0] > 1e-4


@pytest.mark.parametrize("kind", INSTALLED)
def test_every_trainable_parameter_gets_a_gradient(kind: str, pretrained: Callable[[str], Pretrained]) -> None:
    tower = build(kind, pretrained(kind).folder).train()
    hidden = tower(an_input(kind)).hidden
    (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    without = [name for name, p in tower.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert [name for name in without if not WITHOUT_GRADIENT.search(name)] == []
    reached = [name for name, p in tower.named_parameters() if not p.requires_grad and p.grad is not None]
    assert reached == []


# Families whose own code reads from the device, and where.
READING = {
    "flaubert": "lengths.max().item()",
    "ibert": "x_max.isnan()",
    "longformer": "is_index_global_attn",
    "tapas": "embedding",
    "xlm": "lengths.max().item()",
    "xmod": "lang_mask",
}


@pytest.mark.parametrize("kind", [*TEXTS, *(pytest.param(kind, marks=pytest.mark.slow) for kind in PICTURES)])
def test_a_step_of_a_tower_makes_the_processor_wait_for_nothing(kind: str) -> None:
    tower, given, watch = build(kind).train(), an_input(kind), Watch()
    watch.puts_on_device([*tower.parameters(), *tower.buffers(), given])
    with watch():
        tower(given).hidden.square().sum().backward()
    assert watch.operations and bool(watch.found) == (kind in READING), watch.found
    assert kind not in READING or any(READING[kind] in line for line in watch.found), watch.found


RECOMPUTED = {"bert", "roberta", "electra", "distilbert", "vit", "deit", "dinov2", "beit", "swin", "clip_vision_model"}


@pytest.mark.parametrize("kind", INSTALLED)
def test_recomputed_layers_have_the_same_gradient_and_keep_less(
    kind: str, pretrained: Callable[[str], Pretrained]
) -> None:
    gradients, kept = [], []
    for recomputes in (False, True):
        tower = build(kind, pretrained(kind).folder).train()
        layers = backbones.checkpoint_layers(tower, checkpointed) if recomputes else 0
        kept.append(0)

        def pack(tensor: Tensor) -> Tensor:
            kept[-1] += tensor.numel()
            return tensor

        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            hidden = tower(an_input(kind)).hidden
        (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
        gradients.append({name: p.grad for name, p in tower.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5, msg=name)
    assert layers or kind not in RECOMPUTED  # others depend on the version of transformers; convolutions never are
    assert kept[1] < kept[0] if layers else kept[1] == kept[0]


@pytest.mark.parametrize("kind", INSTALLED)
def test_save_and_reload_give_equal_outputs(kind: str, pretrained: Callable[[str], Pretrained]) -> None:
    tower = build(kind, pretrained(kind).folder)
    config = backbones.config_from_dict(json.loads(json.dumps(tower.config.to_dict())))
    again = build(kind, None, config)
    again.load_state_dict(tower.state_dict())
    with torch.no_grad():
        close(again(an_input(kind)).hidden, tower(an_input(kind)).hidden)


@pytest.mark.parametrize("kind", INSTALLED)
def test_builds_on_the_meta_device(kind: str) -> None:
    with torch.device("meta"):
        counted = sum(parameter.numel() for parameter in build(kind).parameters())
    assert counted == sum(parameter.numel() for parameter in build(kind).parameters())


@pytest.mark.parametrize("kind", [kind for kind in PICTURES if kind != "levit"])
def test_another_picture_size(kind: str, pretrained: Callable[[str], Pretrained]) -> None:
    model, folder = pretrained(kind)
    side = picture_side(small_config(kind)) * 2
    tower, pixels = build(kind, folder, image_size=side), some_pictures(side)
    with torch.no_grad():
        tokens = tower(pixels).hidden
        assert tokens.isfinite().all()
        if "interpolate_pos_encoding" in inspect.signature(model.forward).parameters:
            close(tokens, model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state)
    if FAMILIES[kind].grids:
        fresh = build(kind, None, tower.config)
        assert {name: p.shape for name, p in tower.named_parameters()} == {
            name: p.shape for name, p in fresh.named_parameters()
        }


@pytest.mark.parametrize("kind", TEXTS)
def test_a_larger_vocabulary_grows_the_word_embeddings(kind: str, pretrained: Callable[[str], Pretrained]) -> None:
    folder = pretrained(kind).folder
    if kind == "ibert":
        with pytest.raises(UserError, match="cannot take the 67 pieces of this tokenizer"):
            build(kind, folder, vocab_size=67)
        return
    tower, grown = build(kind, folder), build(kind, folder, vocab_size=67)
    with torch.no_grad():
        close(grown(some_text()).hidden, tower(some_text()).hidden)
        new_ids = some_text()._replace(input_ids=torch.full((2, LENGTH), 66))
        assert grown(new_ids).hidden.isfinite().all()
    again = build(kind, None, backbones.config_from_dict(grown.config.to_dict()))
    again.load_state_dict(grown.state_dict())
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in build(kind, vocab_size=67).named_parameters()}
    assert shapes == {name: parameter.shape for name, parameter in grown.named_parameters()}


MANUAL = {"hidden_size": 32, "num_heads": 4, "num_layers": 3, "mlp_ratio": 3.0, "drop_rate": 0.3}
FIXED = {"flaubert": {"mlp_ratio"}, "xlm": {"mlp_ratio"}, "squeezebert": {"hidden_size"}}


@pytest.mark.parametrize("kind", [kind for kind in INSTALLED if FAMILIES[kind].names.get("hidden_size") != ""])
def test_manual_dimensions(kind: str) -> None:
    given = {name: value for name, value in MANUAL.items() if name not in FIXED.get(kind, ())}
    if FAMILIES[kind].modality == TEXT:
        given |= {"vocab_size": 70}
        given |= {"max_text_len": 20} if backbones.encoder_dimensions(small_config(kind))["max_text_len"] else {}
    else:
        given |= {"image_size": 48, "patch_size": 16}
    config = backbones.override_dimensions(small_config(kind), **given)
    dims = backbones.encoder_dimensions(config, kind)
    assert {name: dims[name] for name in given} == given
    tower = build(kind, None, config)
    with torch.no_grad():
        tokens = tower(some_text() if FAMILIES[kind].modality == TEXT else some_pictures(48))
    assert tokens.hidden.shape[-1] == dims["hidden_size"]


def test_dimensions_that_a_family_lacks_or_cannot_have() -> None:
    config = small_config("t5")  # as flan-t5-small: 6 heads of 64 channels, at a width of 512
    config.num_heads = 3
    assert backbones.override_dimensions(config, drop_rate=0.3).d_kv == config.d_kv
    with pytest.raises(UserError, match="no hidden_size to set"):
        backbones.override_dimensions(small_config("swin"), hidden_size=32)
    with pytest.raises(UserError, match="num_heads=5 does not divide hidden_size=32"):
        backbones.override_dimensions(small_config("bert"), hidden_size=32, num_heads=5)


@pytest.mark.parametrize("kind", ONE_TOWER)
def test_blocks_and_embeddings_equal_the_family_s_own_encoder(
    kind: str, pretrained: Callable[[str], Pretrained]
) -> None:
    folder, given = pretrained(kind).folder, an_input(kind)
    tower, (blocks, embeddings) = build(kind, folder), backbones.build_blocks(small_config(kind), weights=folder)
    blocks.eval()
    with torch.no_grad():
        expected = tower(given).hidden
        if FAMILIES[kind].modality == TEXT:
            hidden, mask = embeddings.eval()(given), given.attention_mask
        else:
            hidden, mask = embeddings.eval()(given)
        norm = FAMILIES[kind].one_tower.norm
        if norm in FAMILIES[kind].drop:  # the family norms its pooled token only; here every token may be pooled
            expected = blocks.norm(expected)
        close(blocks(hidden, mask), expected)
        length = hidden.shape[1]
        padded = torch.cat([hidden, torch.randn(2, PADDING, hidden.shape[2])], 1)
        close(blocks(padded, torch.arange(length + PADDING).expand(2, -1) < length)[:, :length], expected)


@pytest.mark.parametrize("kind", ONE_TOWER)
@pytest.mark.parametrize("read", [(7, 7, 0), (1, 7, 1), (0, 7, 5), (7, 7, 1)])
def test_tokens_that_are_read_are_those_of_all(kind: str, read: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    blocks = backbones.build_blocks(small_config(kind), weights=None)[0].eval()
    first, start, more = read
    hidden, mask = torch.randn(2, 12, blocks.hidden_size), torch.arange(12) != torch.tensor([[5], [6]])
    found, gradients = [], []
    for narrowed in (True, False):
        given = hidden.clone().requires_grad_()
        output = blocks(given, mask, read) if narrowed else blocks(given, mask)
        found.append(output if narrowed else torch.cat([output[:, :first], output[:, start : start + more]], 1))
        blocks.zero_grad()
        found[-1].square().sum().backward()
        gradients.append([given.grad, *(parameter.grad for parameter in blocks.parameters())])
    close(*found)
    for one, other in zip(*gradients, strict=True):
        close(one, other)


@pytest.mark.parametrize("kind", [kind for kind in ONE_TOWER if FAMILIES[kind].modality == IMAGE])
def test_pictures_that_keep_their_aspect(kind: str, pretrained: Callable[[str], Pretrained]) -> None:
    embed = backbones.build_blocks(small_config(kind), weights=pretrained(kind).folder)[1].eval()
    pixels = some_pictures(48)
    pixels[1, :, 16:] = 7.0  # padding must not be read
    with torch.no_grad():
        together = embed(pixels, torch.tensor([[48, 32], [16, 48]]))
        for index, (height, width) in enumerate([(48, 32), (16, 48)]):
            alone = embed(pixels[index : index + 1, :, :height, :width], torch.tensor([[height, width]])).hidden[0]
            real = together.hidden[index][together.mask[index]]
            close(real, alone)
            assert len(real) - height * width // 64 in (0, 1, 2, 3, 8)  # patches of 8 x 8 pixels, and the family's own


@pytest.mark.parametrize("kind", DUALS)
def test_halves_of_a_text_and_image_model(kind: str, tmp_path: Path) -> None:
    config_class = transformers.CONFIG_MAPPING[kind]
    halves = {
        attribute: small_config(half).to_dict()
        for attribute in DUAL[kind].values()
        if (half := config_class.sub_configs[attribute].model_type) in FAMILIES
    }
    model = transformers.AutoModel.from_config(config_class(**{"projection_dim": 8} | REST.get(kind, {}) | halves))
    stir(model)
    model, folder = save(model, tmp_path)
    for modality, path in DUALS[kind].items():
        half = backbones.read_config(folder, modality=modality)
        part = FAMILIES[half.model_type].part
        given, inner = an_input(half.model_type), model.get_submodule(path)
        inner = inner.get_submodule(part) if part and hasattr(inner, part) else inner
        with torch.no_grad():
            if modality == TEXT:
                outputs = inner(input_ids=given.input_ids, attention_mask=given.attention_mask.long())
            else:
                outputs = inner(pixel_values=given)
            tower = build(half.model_type, folder, half)
            close(tower(given).hidden, as_tokens(outputs.last_hidden_state))


@pytest.mark.parametrize("kind", READ_PADDING)
def test_refused_for_reading_padding_and_it_does(kind: str) -> None:
    model_class, sizes = READ_PADDING[kind]
    config = getattr(transformers, model_class).config_class(**sizes)
    with pytest.raises(UserError, match="reads padding"):
        backbones.encoder_dimensions(config, "some/model")
    model = getattr(transformers, model_class)(config).eval()
    stir(model)
    moved = 0.0
    with torch.no_grad():
        for shorter, longer in ((57, 57), (0, 56)):  # padding of another length, and of other tokens
            hidden = [
                model(text.input_ids, attention_mask=text.attention_mask.long()).last_hidden_state[:, :LENGTH]
                for text in (some_text(shorter, 2), some_text(longer, 3))
            ]
            moved = max(moved, (hidden[0] - hidden[1]).abs().max().item())
            if kind == "canine":  # it takes lengths of some multiple only
                break
    assert moved > 1e-3


def test_refusals_name_the_reason_and_families_that_can() -> None:
    for kind, reason in {"fnet": "reads padding", "gpt2": "causal", "timesformer": "videos"}.items():
        config = transformers.AutoConfig.for_model(kind)
        with pytest.raises(UserError, match=rf"{kind}.*{reason}.*bert.*vit"):
            backbones.encoder_dimensions(config, "some/model")
    with pytest.raises(UserError, match="encoder=some/model .* cannot be a one-tower encoder: .*bert.*vit"):
        backbones.check_modality(small_config("swin"), "some/model", "encoder")
    with pytest.raises(UserError, match="is an encoder of images: give it as image_encoder"):
        backbones.check_modality(small_config("vit"), "some/model", "text_encoder")
    with pytest.raises(UserError, match="max_text_len=41 is more than text_encoder .* has positions for: give 40"):
        build("roberta", max_text_len=41)


def test_a_family_that_cannot_follow_another_picture_size(pretrained: Callable[[str], Pretrained]) -> None:
    folder = pretrained("levit").folder
    with pytest.raises(UserError, match="attention_biases .*cannot be resized: keep the pretrained image_size"):
        build("levit", folder, image_size=256)
