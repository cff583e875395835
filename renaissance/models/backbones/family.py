"""What a row of the tables of text and vision families says about one model type."""

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
        front: paths of the modules that lead from the input to the first block, in order; one that a model does not
            have (a projection between equal widths) is left out.
        norm: path of the norm after the last block; "" where the family has none.
        since: the transformers version from which the blocks take a mask; 5.17 is our oldest.
    """

    layers: str
    front: tuple[str, ...] = ("embeddings",)
    norm: str = ""
    since: str = "5.17"


@dataclass(frozen=True)
class Family:
    """One model type of transformers.

    Attributes:
        modality: "text" or "image".
        model: name of the transformers class that is built, or a class of a plugin or of custom code; "" takes that with the
            name of the configuration's class (BertModel for BertConfig).
        within: regular expression of what a whole model's checkpoint writes before the names of this half's weights,
            where transformers does not take it off by itself.
        part: path of the module that is kept of it, "" for all: the encoder of an encoder-decoder.
        pooling: where a summary of the whole is read: "first" (CLS), "mean" over real tokens, "last" real token.
        causal: True where a token sees only those before it.
        drop: paths of modules that nobody reads (poolers, heads) and that the class builds all the same.
        unreached: regular expressions of parameters that no output depends on; frozen.
        settings: attributes of the configuration that the tower needs set, such as a decoder of no layers.
        names: attribute of the configuration for one of our dimensions, where the usual names of `dimensions.py` do not fit.
        width: attribute of the configuration, or a function of it, that gives the width of the tokens.
        spare_positions: rows of the position table that no token uses.
        grids: {regular expression of a position table's name: rows before the grid, such as CLS}; first match counts.
        tables: {regular expression of a relative-position table's name: rows after the grid}.
        any_size: True where the family takes images of any size without a change to its weights.
        set_size: writes an image size into the configuration, where that takes more than `image_size`.
        one_tower: the blocks, or the reason why the family cannot be a one-tower model.
    """

    modality: str
    model: str | type[PreTrainedModel] = ""
    within: str = ""
    part: str = ""
    pooling: str = "first"
    causal: bool = False
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
