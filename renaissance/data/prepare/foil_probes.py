"""A caption and a foil of it: SugarCrepe (Hsieh et al., NeurIPS 2023), SugarCrepe++ (Dumpala et al., 2024), VALSE
(Parcalabescu et al., ACL 2022).

Raw layout below `root`:

    sugarcrepe     data/{add_att,add_obj,replace_att,...}.json of RAIVNLab/sugar-crepe   -> sugarcrepe.arrow
    sugarcrepe_pp  data/{replace_att,replace_obj,...}.json of Aman-J/SugarCrepe_pp       -> sugarcrepe_pp.arrow
                   both with COCO's val2017/
    valse          data/*.json of Heidelberg-NLP/VALSE, and images/ or the folders of `_COLLECTIONS`  -> valse.arrow
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from renaissance.core.errors import require

from .annotations import fields, folder_of, require_files
from .probes import ProbeEntry, first_right, json_entries, places_of, probe_download
from .writer import Download, LeftOut, arrow_writer

_SWAPPED_OR_REPLACED = ("replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
# Files, and the keys of a row's texts, of which the last is the foil.
_SUGARCREPE = {
    "sugarcrepe": (("add_att", "add_obj", *_SWAPPED_OR_REPLACED), ("caption", "negative_caption")),
    "sugarcrepe_pp": (_SWAPPED_OR_REPLACED, ("caption", "caption2", "negative_caption")),
}
_VAL2017 = ("val2017", "images/val2017", "data/coco/images/val2017")
# Where VALSE's own program and the collections have the images, by the word of the field "dataset".
_COLLECTIONS = {
    "SWiG": ("data/actions/images_512", "images_512"),
    "VisDial_v1.0": (
        *("data/coref/release_too_many_is_this_in_color/images", "data/coref/release_v18/test_images"),
        *("train2014", "val2014", "VisualDialog_val2018"),
    ),
    "visual7w": ("data/visual7w/images",),
    "coco2017": ("data/plurals/test_images", "val2017"),
    "coco_2017": ("data/relations/test_images", "val2017"),
    "FOIL dataset": ("val2014",),
}
_VOTES = 2  # of three annotators who chose the caption alone: VALSE's valid rows


class _Mturk(TypedDict):
    caption: int


@arrow_writer
def make_arrow(root: Path, *, dataset: str = "sugarcrepe") -> Download:
    """Writes the one file, rows in the order of the annotations.

    Args:
        root: as for every `make_arrow`.
        dataset: "sugarcrepe", "sugarcrepe_pp" or "valse".

    Raises:
        UserError: a missing or malformed file, or one of the refusals of `probe_download` and `arrow_writer`.
    """
    entries = _valse(root) if dataset == "valse" else _sugarcrepe(root, dataset)
    return probe_download(root, dataset, {dataset: entries})


def _sugarcrepe(root: Path, dataset: str) -> Iterator[ProbeEntry]:
    names, keys = _SUGARCREPE[dataset]
    require_files(root, [f"data/{name}.json" for name in names])
    for name in names:
        for key, where, entry in json_entries(root / "data" / f"{name}.json"):
            file, *texts = fields(entry, where, filename=str, **dict.fromkeys(keys, str))
            places, correct = places_of(file, _VAL2017), first_right(texts, len(texts) - 1)
            yield ProbeEntry(f"{name}_{entry.get('id', key)}", where, [places], texts, correct, name)


def _valse(root: Path) -> Iterator[ProbeEntry | LeftOut]:
    paths = sorted((folder_of(root, "data/*.json") / "data").glob("*.json"))
    require(paths, f"root='{root}' needs data/*.json, VALSE's eleven files; found none.")
    for path in paths:
        for key, where, entry in json_entries(path):
            key = f"{path.stem}_{key}"  # two files may share a key
            of, file, mturk, *texts = fields(
                entry, where, dataset=str, image_file=str, mturk=_Mturk, caption=str, foil=str
            )
            if mturk["caption"] < _VOTES:
                yield LeftOut("row that fewer than two of three annotators accept", key)
                continue
            places = places_of(file, (f"images/{of}", "images", *_COLLECTIONS.get(of, ())))
            yield ProbeEntry(key, where, [places], texts, first_right(texts), path.stem)
