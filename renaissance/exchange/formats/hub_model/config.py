"""Configuration and outputs of an exported model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput


class RenaissanceConfig(PreTrainedConfig):
    """Sizes of the model, and the configuration of each tower as a dictionary.

    Attributes:
        model_kind: "two-tower" or "one-tower". hidden_size: D.
        pooling: of text and image, "first" token, "last" real token or "mean". pools_image: whether the image is pooled, too.
        towers: by "text", "image" or "blocks": class of transformers, its "config", the parts of it that are used.
        fusion: kind, num_layers, num_heads, mlp_ratio and drop_rate of the fusion stack.
        embeddings: sizes of a one-tower's own embeddings.
        heads: of each task, what its head reads. renaissance: what the program that trained it knows besides.
    """

    model_type = "renaissance"
    model_kind: str = "two-tower"
    hidden_size: int = 768
    pooling: list | None = None
    pools_image: bool = True
    towers: dict | None = None
    fusion: dict | None = None
    embeddings: dict | None = None
    vocab_size: int = 0
    contrast_size: int | None = None
    heads: dict | None = None
    renaissance: dict | None = None


@dataclass
class RenaissanceOutput(ModelOutput):
    """pooler_output (B,D) or (B,2D), text_hidden_state (B,L,D), image_hidden_state (B,P,D); None for what was not given."""

    pooler_output: Tensor | None = None
    text_hidden_state: Tensor | None = None
    image_hidden_state: Tensor | None = None


@dataclass
class RenaissanceLogits(ModelOutput):
    """loss (), where labels were given; logits (B,classes), or (B,L,V) of masked language modelling."""

    loss: Tensor | None = None
    logits: Tensor | None = None
