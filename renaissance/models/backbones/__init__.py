"""The only room that knows Hugging Face internals: adapts any of its encoders to `Tokens(hidden (B, N, D), mask)`.

hub.py        files and configurations, from the Hub, its cache or a folder
configs.py    which of a configuration's fields are taken
image_processor.py  how a model wants its pixels
weights.py    files of weights
family.py     the form of a family's row; text_families.py, vision_families.py hold the rows, refused.py the reasons
families.py   a configuration's family, and whether it can serve
dimensions.py what a model says of its sizes; manual dimensions
build.py      a model by its family's row, random or pretrained
resize.py     position tables for another image size
towers.py     text and vision towers
blocks.py     the blocks and embeddings of one-tower models
tokenizer.py  tokenizers; tokenizer_data.py, what is taken of their files
"""

from .blocks import Blocks, OneTowerParts, build_blocks
from .build import recompute
from .dimensions import EncoderDimensions, config_from_dict, encoder_dimensions, override_dimensions
from .families import check_modality, family_of
from .hub import is_family, read_config
from .image_processor import read_image_processor
from .resize import resize_position
from .tokenizer import NoTokenizerError, load_tokenizer, tokenizer_files, tokenizer_from_files, vocabulary_rows
from .towers import TextTower, Tower, VisionTower, build_text_tower, build_vision_tower
from .weights import check_weights
