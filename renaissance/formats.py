"""What the files are called and what is in them: the one place that writers (`prepare`) and readers (`data`) share.

Plain constants, no code that runs. Layouts are those that users of ViLT and METER have on disk (one Arrow IPC *file* a
split or a shard); the counts are those of the official downloads.
"""

from __future__ import annotations

from typing import NamedTuple


class Column(NamedTuple):
    """A column that a reader needs.

    Attributes:
        name: its name in the file.
        kind: "picture" (an encoded file: any binary type) or "texts" (a list of strings of any width, or one string).
    """

    name: str
    kind: str


IMAGE = Column("image", "picture")
CAPTION = Column("caption", "texts")
CAPTION_COLUMNS = (IMAGE, CAPTION)
IMAGE_ID = "image_id"
SPLIT = "split"

COCO_FILE = "coco_caption_karpathy_{split}.arrow"
F30K_FILE = "f30k_caption_karpathy_{split}.arrow"
VG_FILE = "vg.arrow"
GCC_FILE = "conceptual_caption_{split}_{shard}.arrow"
SBU_FILE = "sbu_{shard}.arrow"

PUBLIC_DATASETS = ("coco", "f30k", "vg", "gcc", "sbu")

OWN_SPLITS = ("train", "val", "test")
OWN_FILE = "{name}_{split}.arrow"
OWN_NAME = "captions"

COCO_PICTURES = {"train": 82_783, "restval": 30_504, "val": 5_000, "test": 5_000}

# Pillow plugins that may open a picture. EPS, for one, starts Ghostscript: a caption data set must not be able to.
PICTURE_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "MPO", "JPEG2000")
# Pictures of more pixels are taken for decompression bombs; Pillow warns from the same size on.
MAX_PIXELS = 89_478_485
