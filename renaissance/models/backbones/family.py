"""A row of the tables of text and vision families: how one model type of transformers is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

TEXT, IMAGE = "text", "image"


@dataclass(frozen=True)
class Stack:
    """Blocks that can be run one after another as `block(hidden, attention_mask=mask)`.

    Attributes:
        layers: path of the list of blocks, or of one module that runs them all.
        front: paths of the modules from the input to the first block, in order; one that a model lacks (a projection
            between equal widths) is skipped.
        norm: path of the norm after the last block; "" if the family has none.
        since: first version of transformers whose blocks take a mask; 5.17 is the oldest supported.
        like_bert: whether a block has the parts of BERT's, so that the last can compute some of the tokens alone.
    """

    layers: str
    front: tuple[str, ...] = ("embeddings",)
    norm: str = ""
    since: str = "5.17"
    like_bert: bool = False


@dataclass(frozen=True)
class Family:
    """One model type of transformers.

    Attributes:
        modality: "text" or "image".
        model: name of the transformers class to build, or a class of a plugin or of custom code; "" derives the name from
            the configuration's class (BertModel for BertConfig).
        within: regular expression of the prefix of this half's weights in a whole model's checkpoint, if transformers does
            not strip it.
        part: path of the submodule to keep, such as the encoder of an encoder-decoder; "" for all.
        pooling: how a sequence is summarised: "first" token (CLS), "mean" over real tokens, "last" real token.
        causal: whether a token attends only to those before it.
        layer_mask: whether the model takes a mask as its layers do, (B,1,N,N). Of one of (B,N) it would ask whether any token
            is padding, which makes the processor wait for the device; those with an attention of ours do not ask.
        drop: paths of modules whose output is not used (poolers, heads).
        unreached: regular expressions of parameters that no output depends on; they are frozen.
        settings: attributes to set in the configuration, such as a decoder of no layers.
        names: {our dimension: attribute of the configuration}, where the usual names of `dimensions.py` do not fit.
        width: attribute of the configuration, or function of it, for the width of the tokens.
        spare_positions: rows of the position table that no token uses.
        grids: {regular expression of a position table's name: rows before the grid, such as CLS}; first match counts.
            `patch_drop` takes such a family, without `tables`, to add these positions in its module `embeddings`.
        tables: {regular expression of a relative-position table's name: rows after the grid}.
        any_size: whether images of any size fit the weights as they are.
        set_size: writes an image size into the configuration, if more than `image_size` has to be set.
        one_tower: the blocks, or the reason why the family cannot be a one-tower model.
    """

    modality: str
    model: str | type[PreTrainedModel] = ""
    within: str = ""
    part: str = ""
    pooling: str = "first"
    causal: bool = False
    layer_mask: bool = False
    drop: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    width: str | Callable[[PreTrainedConfig], int] = "hidden_size"
    spare_positions: int = 0
    grids: dict[str, int] = field(default_factory=dict)
    tables: dict[str, int] = field(default_factory=dict)
    any_size: bool = False
    set_size: Callable[[PreTrainedConfig, int], None] | None = None
    one_tower: Stack | str = ""
