"""What the files are called and what is in them: the one table that writers (`prepare`) and readers (`data`) share.

Plain constants, and which names are whose. Layouts are those that users of ViLT, METER and the first Renaissance have on disk
(one Arrow IPC *file* a split or a shard); the counts are those of the official downloads. A data set is one row of
`DATASETS`; if its raw download has to be converted, `writer` names an entry of `WRITERS`, for ours the file of
`renaissance/data/prepare` that does it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain
from typing import Any, NamedTuple

from renaissance.core.registry import DATASETS, WRITERS

# Entry of a file's schema metadata: JSON with "dataset", "split", and "labels" (names in the order of their numbers).
METADATA_KEY = b"renaissance"
LABEL_NAMES = "{labels}"  # the names of labels in a file's metadata, where it has them; no column
SHARD = "{shard}"  # in the name of a file: any number from 0


class Column(NamedTuple):
    """A column of a file.

    Attributes:
        name: its name in the file.
        type: in the files that we write, as Arrow spells it. Readers take lists and numbers of any width.
        meaning: for people.
        needed: whether a file without it cannot be used; False where older programs did not write it.
        per_row: whether a list is one value of its row; else it has an entry for each sample of the row.
        length: values in each of its inner lists, 0 = any number.
        lists: inner lists in each row, 0 = any number.
        beside: the column whose innermost lists are as long as this one's inner lists, "" = none.
        indexes: what each of its numbers is a place in: the row's list in another column, or `LABEL_NAMES`; "" = none.
        bounds: least and most of its numbers; None = any.
        one_of: its texts; () = any.
        source: what the file calls it, where a setting says so, <name>_column; "" = the same, and there is no such setting.
    """

    name: str
    type: str
    meaning: str = ""
    needed: bool = True
    per_row: bool = False
    length: int = 0
    lists: int = 0
    beside: str = ""
    indexes: str = ""
    bounds: tuple[float, float] | None = None
    one_of: tuple[str, ...] = ()
    source: str = ""

    @property
    def depth(self) -> int:
        """How many lists are around a value."""
        return self.type.count("<")

    @property
    def leaf(self) -> str:
        """The type of what is in all lists."""
        return self.type.rstrip(">").rpartition("<")[2]

    @property
    def is_image(self) -> bool:
        """Whether it holds encoded image files."""
        return self.type == "binary"

    @property
    def per_sample(self) -> bool:
        """Whether it has an entry for each sample of a row."""
        return self.depth > 0 and not self.per_row


class Expected(NamedTuple):
    """What the official download gives for a file. Attributes: rows; texts, as its annotations list them; None unknown."""

    rows: int | None = None
    texts: int | None = None


UNKNOWN = Expected()


Splits = Mapping[str, tuple[str, ...]]  # split -> files


class DatasetSpec(NamedTuple):
    """One data set.

    Attributes:
        sample_kind: what a sample of it is; a task reads data sets of one kind.
        splits: split -> files. Training reads "train", selection "val", and no image may be in two splits. "{shard}"
            stands for every number that is found, "{name}" for the user's name of own data.
        samples: the column whose lists number the samples; "" where each row is one.
        columns: all that our writer writes.
        writer: the name in `WRITERS` of what converts the raw download.
        expected: file -> what the official download gives.
        extra_files: files that `prepare` writes beside those of the splits; no run reads them unless they are named.
        older_files: split -> file as the older programs called it, where that is not the name above.
        hidden_splits: those whose answers only the benchmark's server knows.
        collection: its images have a number that is the same in every data set of this collection; "" = they have none.
        shares_images: an image may be in two splits, as they divide something else.
    """

    sample_kind: str
    splits: Splits
    samples: str
    columns: tuple[Column, ...]
    writer: str
    expected: Mapping[str, Expected] = {}
    extra_files: tuple[str, ...] = ()
    older_files: Mapping[str, str] = {}
    hidden_splits: tuple[str, ...] = ()
    collection: str = ""
    shares_images: bool = False

    @property
    def image_columns(self) -> list[str]:
        """Names of the columns of a row's images."""
        return [column.name for column in self.columns if column.is_image]

    def owns(self, file: str) -> bool:
        """Whether a file of this name is one of its own, by its present or its older name."""
        templates = chain(*self.splits.values(), self.extra_files, self.older_files.values())
        return any(file_pattern(template).fullmatch(file) for template in templates)


def file_pattern(template: str) -> re.Pattern[str]:
    """Returns the pattern of the names that a template of `DatasetSpec.splits` stands for; its group is a shard's number."""
    return re.compile(re.escape(template).replace(re.escape(SHARD), "([0-9]+)"))


# Kinds of samples.
CAPTIONS = "captions"
QUESTIONS = "questions"
IMAGE_PAIRS = "image pairs"
ENTAILMENT = "entailment"
BOXES = "boxes"
CLASSES = "classes"
PROBES = "probes"

IMAGE = Column("image", "binary", "the encoded image file, as it was or resized")
CAPTION = Column("caption", "list<string>", "its captions")
IMAGE_ID = Column("image_id", "string", "file name of the image", needed=False)
SPLIT = Column("split", "string", "the split it belongs to", needed=False)
CAPTION_IDS = Column("caption_ids", "list<int64>", "number of each caption (Karpathy's sentid)", needed=False)
CAPTION_COLUMNS = (IMAGE, CAPTION)  # what a reader of captions needs


def caption_columns(image_column: str | None, caption_column: str | None) -> tuple[Column, ...]:
    """Returns what a reader of own captions needs, whose files may have other names for it; None = the usual one."""
    named = {IMAGE: image_column, CAPTION: caption_column}
    return tuple(column._replace(source=name or column.name) for column, name in named.items())


_CAPTIONED = (IMAGE, CAPTION, IMAGE_ID, SPLIT)
_PLACES = {"width": "width", "height": "height", "x": "left edge", "y": "top edge"}
_REGIONS = (
    IMAGE,
    Column("caption", "list<string>", "phrases, each about a region"),
    *(Column(name, "list<int64>", f"{what} of each region, pixels", needed=False) for name, what in _PLACES.items()),
    IMAGE_ID,
)
_QUESTIONS = (
    IMAGE,
    Column("questions", "list<string>", "its questions"),
    Column("answers", "list<list<string>>", "distinct normalised answers to each question that are labels"),
    Column("answer_labels", "list<list<int64>>", "their labels", beside="answers", indexes=LABEL_NAMES),
    Column("answer_scores", "list<list<double>>", "their soft scores, 0.3 to 1", beside="answers", bounds=(0, 1)),
    Column("image_id", "int64", "COCO's number of the image"),
    Column("question_id", "list<int64>", "number of each question"),
    SPLIT,
    Column("raw_answers", "list<list<string>>", "the ten answers to each question, as given", needed=False),
    Column("answer_type", "list<string>", "yes/no, number or other", needed=False),
    Column("question_type", "list<string>", "first words of the question, as VQAv2 groups them", needed=False),
)
_IMAGE_PAIRS = (
    Column("image_0", "binary", "the left image"),
    Column("image_1", "binary", "the right image"),
    Column("questions", "list<string>", "sentences about the pair"),
    Column("answers", "list<string>", '"True" or "False", of each sentence', one_of=("True", "False")),
    Column("identifier", "string", "the pair: identifier of its sentences without the last part"),
    Column("identifiers", "list<string>", "identifier of each sentence", needed=False),
)
_ENTAILMENT = (
    IMAGE,
    Column("sentences", "list<list<string>>", "[premise, hypothesis] of each pair", length=2),
    Column("labels", "list<int64>", "contradiction 0, neutral 1, entailment 2", bounds=(0, 2)),
    IMAGE_ID,
)
_FINITE = (-1e9, 1e9)
_BOXED = "[x, y, width, height] in pixels of every annotated object of the image"
BBOXES = Column("bboxes", "list<list<double>>", _BOXED, per_row=True, length=4, bounds=_FINITE)
_BOXES = (
    IMAGE,
    Column("sentences", "list<string>", "referring expressions of one object"),
    BBOXES,
    Column("labels", "int64", "index of the right box", indexes="bboxes"),
    Column("image_id", "int64", "COCO's number of the image", needed=False),
    Column("ref_id", "int64", "number of the reference in the refs file", needed=False),
)
_CLASSES = (IMAGE, Column("label", "int64", "its class", indexes=LABEL_NAMES), IMAGE_ID, SPLIT)
TEXTS = Column("texts", "list<string>", "the texts that stand to choice", per_row=True)
_BELONGS = "of each image, for each text: 1 where they belong together, 0 where not"
CORRECT = Column("correct", "list<list<int64>>", _BELONGS, per_row=True, lists=1, beside="texts", bounds=(0, 1))
ID = Column("id", "string", "the benchmark's own name of the row")
_CHOICES = (ID, Column("category", "string", "what scores stand beside each other by; null = nothing"),
            Column("group", "string", "rows that are right together have one name; null = none"))  # fmt: skip
_PROBES = (IMAGE, TEXTS, CORRECT, *_CHOICES)
_PAIRED_PROBES = (*_IMAGE_PAIRS[:2], TEXTS, CORRECT._replace(lists=2), *_CHOICES)
_SHOWN = "one [x, y, width, height] in pixels: the part of the image that is shown"
SHOWN_BOX = BBOXES._replace(meaning=_SHOWN, lists=1)

COCO_FILE = "coco_caption_karpathy_{split}.arrow"
F30K_FILE = "f30k_caption_karpathy_{split}.arrow"
VG_FILE = "vg.arrow"
GCC_FILE = "conceptual_caption_{split}_{shard}.arrow"
SBU_FILE = "sbu_{shard}.arrow"
SHARD_ROWS = 100_000  # of gcc and sbu
VQA_FILE = "vqav2_{split}.arrow"
NLVR2_FILE = "nlvr2_{split}.arrow"
SNLI_FILE = "snli_{split}.arrow"
REFCOCO_FILE = "{variant}_{split_by}_{split}.arrow"
OLD_REFCOCO_FILE = "refcoco_{split_by}_{split}.arrow"  # of every variant; its test merges testA and testB

OWN_SPLITS = ("train", "val", "test")
OWN_FILE = "{name}_{split}.arrow"
LISTS, TAR = (".jsonl", ".csv", ".tsv", ".json", ".parquet"), ".tar"  # of which `prepare` makes own captions
OWN_NAME = "captions"
OWN_IMAGES_NAME = "images"

COCO_IMAGES = {"train": 82_783, "restval": 30_504, "val": 5_000, "test": 5_000}
F30K_IMAGES = {"train": 29_000, "val": 1_014, "test": 1_000}
SNLI_LABELS = {"contradiction": 0, "neutral": 1, "entailment": 2}
VQA_REST_VAL = 1_000  # images: the last rows of val; the others may be trained on
# Rows of What'sUp and of ARO's lists of orders: the card of ServiceNow/whatsup_all on the Hub, which is what the authors' program
# loads; of Flickr30k, the task AROFlickrOrder of mteb.
_WHATSUP = {"a": 412, "b": 408, "coco_one": 2_247, "coco_two": 440, "vg_one": 1_160, "vg_two": 291}
_ORDERS = {"coco": 25_010, "flickr": 5_000}
VQA_LABELS, VQA_LEAST_COUNT = 3_129, 9  # answers that are labels: those seen at least so often in train and val


def _same(*splits: str) -> Splits:
    """Split -> its one file's own name of it, the same."""
    return {split: (split,) for split in splits}


# Kind of samples -> the column whose lists number them, "" where each row is one; its columns; what official counts count.
_LAYOUTS = {
    CAPTIONS: ("caption", _CAPTIONED, "rows"),
    QUESTIONS: ("questions", _QUESTIONS, "texts"),
    IMAGE_PAIRS: ("questions", _IMAGE_PAIRS, "texts"),
    ENTAILMENT: ("sentences", _ENTAILMENT, "texts"),
    BOXES: ("sentences", _BOXES, "rows"),
    CLASSES: ("", _CLASSES, "rows"),
    PROBES: ("", _PROBES, "rows"),
}
# Writers whose columns are not those of their kind.
_OF_WRITER = {"karpathy": (*_CAPTIONED, CAPTION_IDS), "vg": _REGIONS}


def _spec(
    sample_kind: str, writer: str, file: str, splits: Splits, counts: Mapping[str, int] = {}, **others: Any
) -> DatasetSpec:
    """Returns a row of the table.

    Args:
        sample_kind, writer, others: as for `DatasetSpec`.
        file: name of its files; "{split}" stands for what they call the split.
        splits: split -> what its files call it.
        counts: what a file calls its split -> the official count.
    """
    samples, columns, counted = _LAYOUTS[sample_kind]
    files = {split: tuple(file.replace("{split}", name) for name in names) for split, names in splits.items()}
    expected = {file.replace("{split}", name): Expected(**{counted: count}) for name, count in counts.items()}
    return DatasetSpec(sample_kind, files, samples, _OF_WRITER.get(writer, columns), writer, expected, **others)


def _refcoco(variant: str, split_by: str, refs: Mapping[str, int], **others: Any) -> DatasetSpec:
    file = REFCOCO_FILE.replace("{variant}", variant).replace("{split_by}", split_by)
    old = [split for split in OWN_SPLITS if any(name.startswith(split) for name in refs)]
    older = {split: OLD_REFCOCO_FILE.format(split_by=split_by, split=split) for split in old}
    return _spec(BOXES, "refcoco", file, _same(*refs), refs, collection="COCO", older_files=older, **others)


def _probe(name: str, writer: str, rows: int | None = None, columns: tuple[Column, ...] = _PROBES) -> DatasetSpec:
    """Returns the row of a benchmark that is one file, and one split of its own name."""
    counts = {} if rows is None else {name: rows}
    return _spec(PROBES, writer, "{split}.arrow", _same(name), counts)._replace(columns=columns)


def _vsr(name: str, *counts: int) -> DatasetSpec:
    rows = dict(zip(OWN_SPLITS, counts, strict=True))
    file = OWN_FILE.replace("{name}", name)
    return _spec(PROBES, "relation_probes", file, _same(*OWN_SPLITS), rows, shares_images=True)


_COCO_SPLITS = {"train": ("train", "restval")} | _same("val", "test")
_VQA_SPLITS = {"train": ("train", "trainable_val"), "val": ("rest_val",)} | _same("test-dev", "test")
_NLVR2_SPLITS = {"train": ("train",), "val": ("dev",), "test": ("test1",)} | _same(
    "balanced_dev", "balanced_test1", "unbalanced_dev", "unbalanced_test1"
)
_SNLI_SPLITS = {"train": ("train",), "val": ("dev",), "test": ("test",)}
_SNLI_PAIRS = {"train": 529_527, "dev": 17_858, "test": 17_901}
_ROWS: dict[str, DatasetSpec] = {
    "coco": _spec(CAPTIONS, "karpathy", COCO_FILE, _COCO_SPLITS, COCO_IMAGES, collection="COCO"),
    "f30k": _spec(CAPTIONS, "karpathy", F30K_FILE, _same(*OWN_SPLITS), F30K_IMAGES, collection="Flickr30k"),
    "vg": _spec(CAPTIONS, "vg", VG_FILE, _same("train"), {"train": 108_077}),
    "gcc": _spec(CAPTIONS, "web", GCC_FILE, _same("train", "val")),
    "sbu": _spec(CAPTIONS, "web", SBU_FILE, _same("train")),
    "vqa": _spec(
        QUESTIONS,
        "vqa",
        VQA_FILE,
        _VQA_SPLITS,
        {"train": 443_757, "val": 214_354, "test": 447_793, "test-dev": 107_394},
        collection="COCO",
        extra_files=(VQA_FILE.replace("{split}", "val"),),
        hidden_splits=("test-dev", "test"),
    ),
    "nlvr2": _spec(IMAGE_PAIRS, "nlvr2", NLVR2_FILE, _NLVR2_SPLITS, {"train": 86_373, "dev": 6_982, "test1": 6_967}),
    "snli": _spec(ENTAILMENT, "snli", SNLI_FILE, _SNLI_SPLITS, _SNLI_PAIRS, collection="Flickr30k"),
    "refcoco": _refcoco("refcoco", "unc", {"train": 42_404, "val": 3_811, "testA": 1_975, "testB": 1_810}),
    "refcoco+": _refcoco("refcoco+", "unc", {"train": 42_278, "val": 3_805, "testA": 1_975, "testB": 1_798}),
    "refcocog": _refcoco("refcocog", "umd", {"train": 42_226, "val": 2_573, "test": 5_023}),
    # Mao et al. divide RefCOCOg's objects, not its images, into train and val.
    "refcocog_google": _refcoco("refcocog", "google", {"train": 44_822, "val": 5_000}, shares_images=True),
    "winoground": _probe("winoground", "paired_probes", 400, _PAIRED_PROBES),
    "mmvp": _probe("mmvp", "paired_probes", 135, _PAIRED_PROBES),
    "sugarcrepe": _probe("sugarcrepe", "foil_probes", 7_511),
    "sugarcrepe_pp": _probe("sugarcrepe_pp", "foil_probes", 4_757),
    "valse": _probe("valse", "foil_probes", 7_702),
    "aro_relation": _probe("aro_relation", "relation_probes", 23_937, (*_PROBES, SHOWN_BOX)),
    "aro_attribution": _probe("aro_attribution", "relation_probes", 28_748, (*_PROBES, SHOWN_BOX)),
    **{f"aro_order_{of}": _probe(f"aro_order_{of}", "relation_probes", rows) for of, rows in _ORDERS.items()},
    **{f"whatsup_{part}": _probe(f"whatsup_{part}", "relation_probes", rows) for part, rows in _WHATSUP.items()},
    "vsr": _vsr("vsr", 7_680, 1_097, 2_195),
    "vsr_zeroshot": _vsr("vsr_zeroshot", 3_489, 340, 1_222),
    OWN_NAME: _spec(CAPTIONS, "captions", OWN_FILE, _same(*OWN_SPLITS)),
    OWN_IMAGES_NAME: _spec(CLASSES, "images", OWN_FILE, _same(*OWN_SPLITS)),
}
for _name, _row in _ROWS.items():
    DATASETS.add(_name, _row)
for _writer in dict.fromkeys(row.writer for row in _ROWS.values()):
    WRITERS.add(_writer, f"renaissance.data.prepare.{_writer}:make_arrow")
