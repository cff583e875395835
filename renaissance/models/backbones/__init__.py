"""The only room that knows Hugging Face internals: adapts any of its encoders to `Tokens(hidden (B, N, D), mask)`.

hub.py        files and configurations, from the Hub, its cache or a folder
configs.py    which of a configuration's fields are taken
pictures.py   how a model wants its pixels
weights.py    files of weights
family.py     the form of a family's row; families.py, text_families.py, vision_families.py hold the rows
facts.py      what a model answers for, as plain values; manual dimensions
bounds.py     how large a model may be
build.py      a model by its family's row, random or pretrained
resize.py     position tables for another picture size
towers.py     text and vision towers
blocks.py     the blocks and embeddings of one-tower models
tokenizer.py  tokenizers; tokenizer_data.py, what is taken of their files
"""

from .blocks import Blocks, OneTowerParts, build_blocks
from .build import recompute
from .facts import Facts, check_modality, config_from_dict, facts_of, family_of, override_dimensions
from .hub import BringsCodeError, is_family, read_config
from .pictures import read_image_processor
from .resize import resize_position
from .tokenizer import NoTokenizerError, load_tokenizer, pieces_of, tokenizer_files, tokenizer_from_files
from .towers import TextTower, VisionTower, build_text_tower, build_vision_tower
from .weights import check_weights

__all__ = [
    "Blocks",
    "BringsCodeError",
    "Facts",
    "NoTokenizerError",
    "OneTowerParts",
    "TextTower",
    "VisionTower",
    "build_blocks",
    "build_text_tower",
    "build_vision_tower",
    "check_modality",
    "check_weights",
    "config_from_dict",
    "facts_of",
    "family_of",
    "is_family",
    "load_tokenizer",
    "override_dimensions",
    "pieces_of",
    "read_config",
    "read_image_processor",
    "recompute",
    "resize_position",
    "tokenizer_files",
    "tokenizer_from_files",
]
