"""The fusion stacks against transformers' own layers, and what they leave out when it is not wanted."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, LxmertConfig
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.lxmert.modeling_lxmert import LxmertXLayer

from renaissance.core.types import Tokens
from renaissance.models.fusion import FusionStack, NeededTokens, SharedLayer, TransformerLayer
from tiny_models import FUSIONS, same, stirred

WIDTH, HEADS, RATIO = 32, 4, 2
TEXT_LENGTHS, IMAGE_LENGTHS = (6, 3), (5, 9)


def tokens(lengths: tuple[int, ...], seed: int) -> Tokens:
    shape = (len(lengths), max(lengths))
    hidden = torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))
    return Tokens(hidden, torch.arange(shape[1]) < torch.tensor(lengths)[:, None])


TEXT, IMAGE = tokens(TEXT_LENGTHS, 1), tokens(IMAGE_LENGTHS, 2)


def additive(mask: Tensor) -> Tensor:
    """(B,N) bool -> (B,1,1,N), the most negative number on padding."""
    return (~mask)[:, None, None, :].float() * torch.finfo(torch.float32).min


def bert_layer(seed: int, cross: bool) -> BertLayer:
    config = BertConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        intermediate_size=RATIO * WIDTH,
        is_decoder=cross,
        add_cross_attention=cross,
    )
    config._attn_implementation = "eager"
    return stirred(BertLayer(config), seed)


def copy_attention(own: nn.Module, attention: nn.Module, output: nn.Module) -> None:
    """Our fused projection is query, key and value, one below the other."""
    parts = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        own.qkv.weight.copy_(torch.cat([part.weight for part in parts]))
        own.qkv.bias.copy_(torch.cat([part.bias for part in parts]))
    copy_residual(own.output, output)


def copy_residual(own: nn.Module, output: nn.Module) -> None:
    own.load_state_dict({name.replace("LayerNorm", "norm"): tensor for name, tensor in output.state_dict().items()})


def copy_feed_forward(own: nn.Module, intermediate: nn.Module, output: nn.Module) -> None:
    own.dense.load_state_dict(intermediate.dense.state_dict())
    copy_residual(own.output, output)


@torch.no_grad()
def test_a_shared_layer_is_lxmerts() -> None:
    config = LxmertConfig(hidden_size=WIDTH, num_attention_heads=HEADS, intermediate_size=RATIO * WIDTH)
    theirs = stirred(LxmertXLayer(config))
    ours = SharedLayer(WIDTH, HEADS, RATIO, 0.1).eval()
    copy_attention(ours.cross, theirs.visual_attention.att, theirs.visual_attention.output)
    for side, name in ((ours.text, "lang"), (ours.image, "visn")):
        attention = getattr(theirs, f"{name}_self_att")
        copy_attention(side.attention, attention.self, attention.output)
        copy_feed_forward(side.feed_forward, getattr(theirs, f"{name}_inter"), getattr(theirs, f"{name}_output"))
    expected = theirs(TEXT.hidden, additive(TEXT.mask), IMAGE.hidden, additive(IMAGE.mask))
    for actual, wanted in zip(ours(TEXT, IMAGE, NeededTokens()), expected, strict=True):
        same(actual, wanted, 1e-5)


@torch.no_grad()
def test_separate_layers_are_berts_decoder_layers_each_reading_the_other_side_of_the_layer_before() -> None:
    ours = FusionStack("separate", 2, WIDTH, HEADS, RATIO, 0.1).eval()
    theirs = [{"text": bert_layer(layer, True), "image": bert_layer(layer + 10, True)} for layer in range(2)]
    for layer, sides in zip(ours.layers, theirs, strict=True):
        for name, bert in sides.items():
            copy_attention(getattr(layer, f"{name}_attention"), bert.attention.self, bert.attention.output)
            copy_attention(getattr(layer, f"{name}_cross"), bert.crossattention.self, bert.crossattention.output)
            copy_feed_forward(getattr(layer, f"{name}_feed_forward"), bert.intermediate, bert.output)
    text, image = TEXT.hidden, IMAGE.hidden
    masks = additive(TEXT.mask), additive(IMAGE.mask)
    for sides in theirs:
        text, image = (
            output if isinstance(output, Tensor) else output[0]
            for output in (
                sides["text"](text, masks[0], encoder_hidden_states=image, encoder_attention_mask=masks[1]),
                sides["image"](image, masks[1], encoder_hidden_states=text, encoder_attention_mask=masks[0]),
            )
        )
    for actual, wanted in zip(ours(TEXT, IMAGE, NeededTokens()), (text, image), strict=True):
        same(actual, wanted, 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("absent", [None, "text", "image"])
def test_a_merged_stack_is_berts_layers_over_both_sequences(absent: str | None) -> None:
    ours = FusionStack("merged", 2, WIDTH, HEADS, RATIO, 0.1).eval()
    theirs = [bert_layer(seed, False) for seed in range(2)]
    for layer, bert in zip(ours.layers, theirs, strict=True):
        copy_attention(layer.attention, bert.attention.self, bert.attention.output)
        copy_feed_forward(layer.feed_forward, bert.intermediate, bert.output)
    text, image = (None if absent == name else side for name, side in (("text", TEXT), ("image", IMAGE)))
    present = [side for side in (text, image) if side is not None]
    hidden, mask = (torch.cat([side[part] for side in present], 1) for part in (0, 1))
    for bert in theirs:
        output = bert(hidden, additive(mask))
        hidden = output if isinstance(output, Tensor) else output[0]
    actual = [side for side in ours(text, image, NeededTokens()) if side is not None]
    same(torch.cat(actual, 1), hidden, 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", FUSIONS)
def test_a_part_that_is_wanted_is_the_part_of_everything(kind: str) -> None:
    stack = stirred(FusionStack(kind, 2, WIDTH, HEADS, RATIO, 0.1))
    whole = stack(TEXT, IMAGE, NeededTokens())
    for want in product(("all", "first", None), repeat=2):
        for part, side, wanted in zip(stack(TEXT, IMAGE, NeededTokens(*want)), whole, want, strict=True):
            if wanted is not None:
                count = side.shape[1] if wanted == "all" else 1
                same(part[:, :count], side[:, :count], 1e-6)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_the_last_layer_does_not_compute_what_is_not_wanted(kind: str) -> None:
    stack = stirred(FusionStack(kind, 2, WIDTH, HEADS, RATIO, 0.1))
    text, image = stack(TEXT, IMAGE, NeededTokens("first", None))
    assert text.shape == (2, 1, WIDTH)
    assert image is None


@pytest.mark.parametrize("kind", ["shared", "separate"])
@pytest.mark.parametrize("absent", ["text", "image"])
def test_without_one_side_its_cross_attention_is_skipped(kind: str, absent: str) -> None:
    stack = stirred(FusionStack(kind, 2, WIDTH, HEADS, RATIO, 0.1))
    text, image = (None, IMAGE) if absent == "text" else (TEXT, None)
    present, other = ("image", "text") if absent == "text" else ("text", "image")
    output = dict(zip(("text", "image"), stack(text, image, NeededTokens()), strict=True))
    assert output[absent] is None
    output[present].square().sum().backward()
    for name, parameter in stack.named_parameters():
        own = present in name and "cross" not in name
        assert (parameter.grad is not None) == own, name
    hidden = TEXT if present == "text" else IMAGE  # what is left is a plain transformer stack
    for layer in stack.layers:
        side = TransformerLayer(WIDTH, HEADS, RATIO, 0.1).eval()
        if kind == "shared":
            side = getattr(layer, present)
        else:
            side.attention, side.feed_forward = (
                getattr(layer, f"{present}_{part}") for part in ("attention", "feed_forward")
            )
        hidden = Tokens(side(*hidden, "all"), hidden.mask)
    same(output[present], hidden.hidden, 0)


@torch.no_grad()
@pytest.mark.parametrize("kind", FUSIONS)
def test_dropout_acts_in_training_alone(kind: str) -> None:
    stack = stirred(FusionStack(kind, 1, WIDTH, HEADS, RATIO, 0.3))
    evaluated, dropped = stack(TEXT, IMAGE, NeededTokens()), stack.train()(TEXT, IMAGE, NeededTokens())
    assert not torch.allclose(evaluated[0], dropped[0], atol=1e-3)
    without = stirred(FusionStack(kind, 1, WIDTH, HEADS, RATIO, 0.0))
    same(without.train()(TEXT, IMAGE, NeededTokens())[1], evaluated[1], 1e-6)
