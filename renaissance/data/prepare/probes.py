"""Benchmarks that are measured without finetuning: what their writers share.

    official files -> ProbeEntry, all of them checked -> probe_download -> arrow files

Everything is read and checked before a file is written, as the annotations are small, and it is seen whether all images are
there. None may be missing unless `max_unreadable` allows it: a score of a part of a benchmark is another benchmark's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from renaissance.core.errors import require, shortened
from renaissance.core.untrusted import read_json
from renaissance.data.dataset_specs import BBOXES, DATASETS, TEXTS

from .annotation_store import plain_name, text_fault
from .annotations import folder_of
from .entries import rescaled_boxes, shows_some
from .image_pool import Fault, size_of
from .skipped import Skipped
from .writer import Download, LeftOut, Plan, Row, plan_file

Places = Sequence[str]  # paths below root where an image may lie; the first that exists is taken
Packed = Callable[[str], Callable[[], bytes | Fault] | Fault]  # of an archive: what reads an image by its place there


class ProbeEntry(NamedTuple):
    """A row as the official files have it.

    Attributes:
        id: the benchmark's own name of it, once in a file.
        where: file and place, for sentences.
        images: of each image, where it may lie.
        texts: those that stand to choice.
        correct: of each image, for each text: 1 where they belong together, 0 where not.
        category, group: as the columns of these names; None = none.
        box: [x, y, width, height] in pixels of the part of the image that is shown, None = all of it.
    """

    id: str
    where: str
    images: Sequence[Places]
    texts: list[str]
    correct: list[list[int]]
    category: str | None = None
    group: str | None = None
    box: list[float] | None = None


PAIRED = [[1, 0], [0, 1]]  # two images, two texts, the first of each together


def first_right(texts: Sequence[str], right: int = 1) -> list[list[int]]:
    """Returns `correct` of one image whose right texts stand first."""
    return [[int(number < right) for number in range(len(texts))]]


def probe_download(
    root: Path,
    dataset: str,
    splits: Mapping[str, Iterable[ProbeEntry | LeftOut]],
    packed: Packed | None = None,
) -> Download:
    """Returns the download of a benchmark.

    Args:
        root: its folder.
        dataset: key of `DATASETS`.
        splits: split -> all its rows, in order.
        packed: the archive of the images, None = they are files below root.

    Raises:
        UserError: what reading the entries raises; no row; an id twice; a text that is empty, no Unicode text, or longer
            than `annotation_store.MOST_TEXT`; a box that shows nothing of its image.
    """
    lists = {split: [*entries] for split, entries in splits.items()}
    plans = [_plan(root, dataset, split, entries, packed) for split, entries in lists.items()]
    absent = {
        plan.name: (len(entries), _absent(root, entries, packed))
        for plan, entries in zip(plans, lists.values(), strict=True)
    }
    return Download(dataset, plans, max_unreadable=0, absent=absent)


def _plan(
    root: Path,
    dataset: str,
    split: str,
    entries: Sequence[ProbeEntry | LeftOut],
    packed: Packed | None,
) -> Plan:
    spec, sizes = DATASETS[dataset], cache(partial(_size, root))
    seen, reaching, alike = set(), 0, []
    for each in entries:
        if isinstance(each, LeftOut):
            continue
        require(each.id not in seen, f"{each.where} has the id '{each.id}' of an earlier one; download it again.")
        seen.add(each.id)
        fault = next(filter(None, (text_fault(text, "text") for text in each.texts)), None)
        require(fault is None, f"{each.where} has an unusable text ({fault}); download it again.")
        if _alike(each):
            alike.append(each.id)
        if each.box is not None and (size := sizes(_found(root, each.images[0]))):
            reaching += _reaches_over(each, *size)
    named = dataset if split == dataset else f"{dataset} {split}"
    require(seen, f"root='{root}' lists no row of {named}; download it again.")
    rows = (_row(root, each, spec.image_columns, packed) for each in entries)
    notes = [f"{reaching:,} boxes reach over the border of their image; what lies in it is shown."] * (reaching > 0)
    if alike:
        notes.append(
            f"Rows with a right text that is a wrong one, too: {len(alike):,} ({shortened(alike)}); none can be right."
        )
    (file,) = spec.splits[split]
    plan = plan_file(dataset, file, split, rows, listed=len(entries), skipped=Skipped(), notes=notes)
    return plan._replace(texts=(TEXTS.name,))


def _size(root: Path, name: str | None) -> tuple[int, int] | None:
    """Returns width and height of an image, None where it cannot be read, which is counted when it is stored."""
    with suppress(Exception):  # Pillow's plugins raise nearly every type on damaged data
        return name and size_of(str(root / name))


def _reaches_over(entry: ProbeEntry, full_width: int, full_height: int) -> bool:
    """Whether a box reaches over the border of its image. Raises UserError where nothing of it lies in the image."""
    x, y, width, height = entry.box
    require(
        shows_some(entry.box, full_width, full_height),
        f"{entry.where} has the box {entry.box}, of which nothing lies in its image of {full_width} x {full_height} "
        "pixels; boxes are [x, y, width, height].",
    )
    return x < 0 or y < 0 or x + width > full_width or y + height > full_height


def _alike(entry: ProbeEntry) -> bool:
    """Whether a picture has a right text that is also a wrong one."""
    rows = (
        [{text for text, right in zip(entry.texts, row, strict=True) if right == side} for side in (1, 0)]
        for row in entry.correct
    )
    return any(right & wrong for right, wrong in rows)


def _absent(root: Path, entries: Iterable[ProbeEntry | LeftOut], packed: Packed | None) -> list[str]:
    """Returns, of each row of which an image is not there, which one, and where it was looked for."""
    found = []
    for entry in entries:
        places = () if isinstance(entry, LeftOut) else entry.images
        faults = ((each[0], _image(root, each, packed)) for each in places)
        found += [_without(place, fault).name for place, fault in faults if isinstance(fault, Fault)][:1]
    return found


def _image(root: Path, places: Places, packed: Packed | None) -> str | Callable[[], bytes | Fault] | Fault:
    """Returns the path of an image, what reads it out of the archive, or why it is not there."""
    return packed(places[0]) if packed else _found(root, places) or _missing(places)


def _without(place: str, fault: Fault) -> LeftOut:
    return LeftOut(fault.kind, f"{os.path.basename(place)}: {fault.why}")


def _found(root: Path, places: Places) -> str | None:
    return next((place for place in places if os.path.isfile(root / place)), None)


def _row(root: Path, entry: ProbeEntry | LeftOut, columns: Sequence[str], packed: Packed | None) -> Row | LeftOut:
    """Returns the row of an entry, or why there is none."""
    if isinstance(entry, LeftOut):
        return entry
    images: dict[str, str | bytes] = {}
    for column, places in zip(columns, entry.images, strict=True):
        image = _image(root, places, packed)
        image = image() if callable(image) else image
        if isinstance(image, Fault):
            return _without(places[0], image)
        images[column] = image
    values = {name: getattr(entry, name) for name in ("texts", "correct", "id", "category", "group")}
    if entry.box is None:
        return Row(images, values)
    return Row(images, values | {BBOXES.name: [entry.box]}, rescaled_boxes)


def _missing(places: Places) -> Fault:
    folders = dict.fromkeys(os.path.dirname(place) or "root" for place in places)
    return Fault("missing", f"no such file in {' or '.join(f'{folder}/' for folder in folders)}")


def places_of(name: str, folders: Iterable[str]) -> list[str]:
    """Returns the paths of an image in each of some folders below root, "" = root itself. Raises UserError for a bad name."""
    name = plain_name(name)
    return [plain_name(f"{folder}/{name}") if folder else name for folder in folders]


def annotations_below(root: Path, names: Sequence[str]) -> Path:
    """Returns the first of some files that is below root. Raises UserError where none is."""
    folder = folder_of(root, f"{' or '.join(names)}")
    found = [folder / name for name in names if (folder / name).exists()]
    present = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    require(found, f"root='{root}' needs {' or '.join(names)}; found there: {present}.")
    return found[0]


def json_entries(path: Path) -> list[tuple[str, str, Any]]:
    """Returns (key or place, where, entry) of each entry of a JSON file that is an object or a list."""
    content = read_json(path, dict | list)
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    return [(str(key), f"'{path}' entry {key}", entry) for key, entry in pairs]
