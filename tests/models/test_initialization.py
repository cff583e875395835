"""The scale of random weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers import ModernBertConfig, ModernBertModel

from renaissance.models import backbones
from renaissance.models.embeddings import PatchEmbeddings
from renaissance.models.fusion import FusionStack
from renaissance.models.initialization import initialize
from tiny_models import image_config

WIDTH = 128


def modules() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    made = {
        "linear": nn.Linear(WIDTH, 400),
        "convolution": nn.Conv2d(3, WIDTH, kernel_size=8),
        "embedding": nn.Embedding(300, WIDTH, padding_idx=0),
        "patches": PatchEmbeddings(WIDTH, 64, 8, 0.0),
        "batch_norm": nn.BatchNorm2d(WIDTH),
        "bare_norm": nn.LayerNorm(WIDTH, elementwise_affine=False),
    }
    for module in made.values():
        for parameter in module.parameters():
            nn.init.constant_(parameter, 7.0)
        initialize(module)
    return made


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("linear.weight", WIDTH**-0.5),
        ("convolution.weight", (3 * 8 * 8) ** -0.5),
        ("embedding.weight", WIDTH**-0.5),
        ("patches.projection.weight", (3 * 8 * 8) ** -0.5),
        ("patches.position", 2.0),
        ("patches.cls_token", 2.0),
        ("patches.cls_position", 2.0),
    ],
)
def test_weights_are_normal_with_the_scale_of_their_fan_in(name: str, std: float) -> None:
    module, _, parameter = name.partition(".")
    weights = modules()[module].get_parameter(parameter).detach()
    if module == "embedding":
        assert not weights[0].any()  # the padding row
        weights = weights[1:]
    error = 4 / math.sqrt(2 * weights.numel())  # four standard errors of a normal's deviation
    assert weights.std() == pytest.approx(std, rel=error)
    assert abs(weights.mean()) < 4 * std / math.sqrt(weights.numel())


def test_biases_are_zero_and_norms_are_one() -> None:
    made = modules()
    for bias in (made["linear"].bias, made["convolution"].bias, made["patches"].norm.bias, made["batch_norm"].bias):
        assert not bias.any()
    for weight in (made["patches"].norm.weight, made["batch_norm"].weight):
        assert (weight == 1).all()


def test_initializer_range_is_one_deviation_for_all() -> None:
    module = PatchEmbeddings(WIDTH, 64, 8, 0.0)
    initialize(module, 0.02)
    for name in ("projection.weight", "position", "cls_token"):
        weights = module.get_parameter(name).detach()
        assert weights.std() == pytest.approx(0.02, rel=4 / math.sqrt(2 * weights.numel()))


def test_what_layers_add_to_a_residual_stream_is_as_much_together_as_one_would_be() -> None:
    stack = FusionStack("merged", 2, WIDTH, 4, 4, 0.0)
    for given, scale in ((None, 4**-0.5), (0.02, None)):  # two layers, each with attention and feed-forward
        initialize(stack, given)
        for name, parameter in stack.named_parameters():
            if parameter.ndim == 2:
                expected = given or parameter.shape[1] ** -0.5 * (scale if ".output." in name else 1)
                error = 4 / math.sqrt(2 * parameter.numel())
                assert parameter.detach().std() == pytest.approx(expected, rel=error), name


def test_a_towers_positions_of_patches_are_found() -> None:
    tower = backbones.build_vision_tower(image_config(hidden_size=64), weights=None)
    initialize(tower)
    positions = tower.get_parameter("model.embeddings.position_embeddings").detach()
    assert positions.std() == pytest.approx(2.0, rel=4 / math.sqrt(2 * positions.numel()))


def test_norms_without_a_bias_are_taken() -> None:
    config = ModernBertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
    )
    model = ModernBertModel(config)
    nn.init.constant_(model.final_norm.weight, 7.0)
    initialize(model)
    assert model.final_norm.bias is None
    assert (model.final_norm.weight == 1).all()
