"""The only room that knows Hugging Face internals: adapts any of its encoders to `Tokens(hidden (B, N, D), mask)`.

hub.py              files and configurations, from the Hub, its cache or a folder
remote.py           revisions, and models with custom code
configs.py          configurations from untrusted values
image_processor.py  how pixels are normalised
weights.py          files of weights
family.py           a row of text_families.py and vision_families.py; refused.py, why other model types cannot be used
families.py         the family of a configuration, and whether it can be used
facts.py            what models of other programs do otherwise
dimensions.py       sizes read from a configuration and written into it
build.py            builds the model of a family's row, random or pretrained
resize.py           position tables for another image size
towers.py           text and image towers
blocks.py           the blocks and embeddings of one-tower models
patches.py          leaves out patches before the blocks
tokenizer.py        tokenizers; tokenizer_data.py cleans their files
"""

from .blocks import Blocks, FamilyPatchEmbeddings, FamilyTextEmbeddings, build_blocks
from .build import checkpoint_layers
from .dimensions import config_from_dict, encoder_dimensions, override_dimensions
from .facts import facts_of
from .families import check_modality, class_of, family_of
from .family import Family
from .hub import is_family, quiet, read_config
from .image_processor import read_image_processor
from .patches import keep_patches
from .resize import resize_grid, resize_position
from .tokenizer import NoTokenizerError, load_tokenizer, tokenizer_files, tokenizer_from_files, vocabulary_rows
from .towers import TextTower, Tower, VisionTower, build_text_tower, build_vision_tower
from .weights import check_weights
