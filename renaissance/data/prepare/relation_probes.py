"""Relations, attributes and order of words: ARO (Yuksekgonul et al., ICLR 2023), What'sUp (Kamath et al., EMNLP 2023),
VSR (Liu et al., TACL 2023).

Raw layout below `root`, or below its data/:

    aro_relation, aro_attribution    visual_genome_{relation,attribution}.json; images/
    aro_order_coco, aro_order_flickr {coco,flickr30k}_order.json: [{image, caption_options: [right, four shuffles]}]
    whatsup_a, whatsup_b             controlled_{images,clevr}_dataset.json; controlled_images/, controlled_clevr/
    whatsup_coco_*, whatsup_vg_*     {coco,vg}_qa_{one,two}_obj.json; val2017/, vg_images/
    vsr, vsr_zeroshot                splits/{random,zeroshot}/{train,dev,test}.jsonl; images/

-> <name>.arrow, of VSR <name>_{train,val,test}.arrow.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from renaissance.core.errors import require
from renaissance.core.untrusted import expect, short

from .annotations import fields, json_lines
from .probes import ProbeEntry, annotations_below, first_right, json_entries, places_of, probe_download
from .writer import Download, arrow_writer

# Data set -> the names of its annotations.
_FILES = {
    "aro_relation": ("visual_genome_relation.json",),
    "aro_attribution": ("visual_genome_attribution.json",),
    "aro_order_coco": ("coco_order.json",),
    "aro_order_flickr": ("flickr_order.json", "flickr30k_order.json"),
    "whatsup_a": ("controlled_images_dataset.json",),
    "whatsup_b": ("controlled_clevr_dataset.json",),
    **{f"whatsup_{of}_{many}": (f"{of}_qa_{many}_obj.json",) for of in ("coco", "vg") for many in ("one", "two")},
}
_SPLITS = {"vsr": "random", "vsr_zeroshot": "zeroshot"}  # and what VSR calls them
_PARTS = {"train": "train", "val": "dev", "test": "test"}
_ARO = dict.fromkeys(("image_path", "true_caption", "false_caption"), str)
_BOX = dict.fromkeys(("bbox_x", "bbox_y", "bbox_w", "bbox_h"), float)
_OPTIONS = {"aro": 5, "whatsup": 4}


@arrow_writer
def make_arrow(root: Path, *, dataset: str = "aro_relation") -> Download:
    """Writes the one file, of VSR the three files, rows in the order of the annotations.

    Args:
        root: as for every `make_arrow`.
        dataset: one of those above.

    Raises:
        UserError: a missing or malformed file, or one of the refusals of `probe_download` and `arrow_writer`.
    """
    if dataset in _SPLITS:
        folders = (f"splits/{_SPLITS[dataset]}/", f"data/splits/{_SPLITS[dataset]}/", "")
        files = {split: [f"{folder}{part}.jsonl" for folder in folders] for split, part in _PARTS.items()}
        paths = {split: annotations_below(root, names) for split, names in files.items()}
        return probe_download(root, dataset, {split: _vsr(path) for split, path in paths.items()})
    path = annotations_below(root, [f"{folder}{name}" for folder in ("", "data/") for name in _FILES[dataset]])
    read = _aro if dataset in ("aro_relation", "aro_attribution") else _options
    if dataset.startswith(("whatsup_coco", "whatsup_vg")):
        read = _pairs
    return probe_download(root, dataset, {dataset: read(path, dataset)})


def _aro(path: Path, dataset: str) -> Iterator[ProbeEntry]:
    key, hint = ("relation_name", str) if dataset == "aro_relation" else ("attributes", list[str])
    for number, where, entry in json_entries(path):
        image, right, wrong, kind, *box = fields(entry, where, **_ARO, **{key: hint}, **_BOX)
        category = kind if isinstance(kind, str) else ",".join(kind)
        places, texts = places_of(image, ("images", "data/images")), [right, wrong]
        yield ProbeEntry(number, where, [places], texts, first_right(texts), category, box=box)


def _options(path: Path, dataset: str) -> Iterator[ProbeEntry]:
    """Several captions of an image, of which the first is right."""
    many = _OPTIONS[dataset.partition("_")[0]]
    for number, where, entry in json_entries(path):
        key = "image" if isinstance(entry, dict) and "image_path" not in entry else "image_path"
        image, texts = fields(entry, where, **{key: str}, caption_options=list[str])
        require(len(texts) == many, f"{where} has {len(texts)} caption_options, and not {many}, the right one first.")
        category = group = None
        if dataset.startswith("whatsup"):
            category, group = _arranged(image, where)
        places = places_of(image.removeprefix("data/"), ("", "data", "images"))
        yield ProbeEntry(number, where, [places], texts, first_right(texts), category, group)


def _arranged(image: str, where: str) -> tuple[str, str]:
    """Returns the preposition and the pair of objects that the name of an image of What'sUp says."""
    parts = PurePosixPath(image).stem.split("_")
    named = f"{where} has the image {short(image)}, whose name is not <object>_<preposition>_<object>."
    require(len(parts) > 2, named)
    return "_".join(parts[1:-1]), f"{parts[0]}_{parts[-1]}"


def _pairs(path: Path, dataset: str) -> Iterator[ProbeEntry]:
    """[number of the image, right caption, wrong caption]; the words that only the right one has are the preposition."""
    folder, digits = ("val2017", 12) if dataset.startswith("whatsup_coco") else ("vg_images", 0)
    for number, where, entry in json_entries(path):
        image, *texts = expect(tuple(expect(entry, list, where)), tuple[int | str, str, str], where)
        only = [word for word in texts[0].split() if word not in texts[1].split()]
        places = places_of(f"{str(image).zfill(digits)}.jpg", (folder, f"data/{folder}"))
        yield ProbeEntry(number, where, [places], texts, first_right(texts), " ".join(only) or None)


def _vsr(path: Path) -> Iterator[ProbeEntry]:
    for number, entry in json_lines(path):
        where = f"'{path}' line {number}"
        image, caption, label, relation = fields(entry, where, image=str, caption=str, label=int, relation=str)
        require(label in (0, 1), f"{where} has the label {label}; labels are 0 and 1.")
        places = places_of(image, ("images", "data/images", "trainval2017", "data/trainval2017"))
        yield ProbeEntry(str(number), where, [places], [caption], [[label]], relation)
