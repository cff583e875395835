"""Two images and two texts, each of one: Winoground (Thrush et al., CVPR 2022), MMVP-VLM (Tong et al., CVPR 2024).

Raw layout below `root`:

    winoground  data/examples.jsonl, data/images.zip or data/images/ of facebook/winoground    -> winoground.arrow
    mmvp        Questions.csv, "MLLM_VLM Images/<type>/<number>.jpg" of MMVP/MMVP_VLM          -> mmvp.arrow
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from renaissance.core.errors import UserError, first_line, require
from renaissance.core.untrusted import short
from renaissance.data.arrow import some

from .annotations import fields, folder_of, json_lines, opened, text_lines
from .image_pool import MAX_BYTES, Fault, fault_of
from .names import IMAGE_SUFFIXES
from .probes import PAIRED, Packed, ProbeEntry, annotations_below, places_of, probe_download
from .writer import Download, arrow_writer

_EXAMPLES, _IMAGES = "data/examples.jsonl", "data/images"
_GATED = (
    "Winoground is behind a gate: log in at huggingface.co, accept the terms of facebook/winoground, and download its "
    f"{_EXAMPLES} and {_IMAGES}.zip with that account"
)
_QUESTION = ("Question ID", "Type", "Statement")
_MMVP_FOLDERS = ("MLLM_VLM Images", "MMVP_VLM_Images")


@arrow_writer
def make_arrow(root: Path, *, dataset: str = "winoground") -> Download:
    """Writes the one file, rows in the order of the annotations.

    Args:
        root: as for every `make_arrow`.
        dataset: "winoground" or "mmvp".

    Raises:
        UserError: a missing, gated or malformed file, or one of the refusals of `probe_download` and `arrow_writer`.
    """
    if dataset == "mmvp":
        return probe_download(root, dataset, {dataset: _mmvp(root)})
    folder_of(root, f"{_EXAMPLES} and {_IMAGES}.zip")
    archive = root / f"{_IMAGES}.zip"
    there = {_EXAMPLES: (root / _EXAMPLES).exists(), f"{_IMAGES}.zip": archive.exists() or (root / _IMAGES).is_dir()}
    lacking = [name for name, found in there.items() if not found]
    require(not lacking, f"root='{root}' lacks {' and '.join(lacking)}; {_GATED}.")
    _refuse_other(root / _EXAMPLES, b"{")
    packed = None
    if archive.exists():
        _refuse_other(archive, b"PK")
        packed = _packed(archive)
    return probe_download(root, dataset, {dataset: _winoground(root / _EXAMPLES)}, packed)


def _refuse_other(path: Path, start: bytes) -> None:
    """Refuses what a download without a login saves: a page, or a sentence of the server."""
    with opened(path) as file:
        begin = file.read(64).lstrip()
    shown = short(begin.decode(errors="replace"))
    require(
        not begin or begin.startswith(start), f"'{path}' begins with {shown}, and is not the file itself; {_GATED}."
    )


def _winoground(path: Path) -> Iterator[ProbeEntry]:
    hints = {"id": int | str, **dict.fromkeys(("collapsed_tag", "caption_0", "caption_1", "image_0", "image_1"), str)}
    for number, entry in json_lines(path):
        where = f"'{path}' line {number}"
        own, tag, *texts, first, second = fields(entry, where, **hints)
        images = [places_of(f"{stem}.png", [_IMAGES]) for stem in (first, second)]
        yield ProbeEntry(str(own), where, images, texts, PAIRED, tag)


def _packed(archive: Path) -> Packed:
    """Returns what finds an image of an archive by its path, of which the name without ending counts."""
    try:
        file = zipfile.ZipFile(archive)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"'{archive}' is no whole zip archive ({first_line(error)}); download it again.") from None
    names = [(PurePosixPath(each.filename), each) for each in file.infolist()]
    images = {name.stem: each for name, each in names if name.suffix[1:].lower() in IMAGE_SUFFIXES}

    def find(place: str) -> Callable[[], bytes | Fault] | Fault:
        member = images.get(PurePosixPath(place).stem)
        return Fault("missing", f"not in {_IMAGES}.zip") if member is None else partial(read, member)

    def read(member: zipfile.ZipInfo) -> bytes | Fault:
        if member.file_size > MAX_BYTES:
            return Fault("too large", f"it has {member.file_size:,} bytes, at most {MAX_BYTES:,} are stored")
        try:
            return file.read(member)
        except Exception as error:  # damaged, encrypted, packed in an unknown way
            return fault_of(error)

    return find


def _mmvp(root: Path) -> Iterator[ProbeEntry]:
    path = annotations_below(root, ["Questions.csv"])
    lines = csv.reader(text_lines(path))
    try:
        head = next(lines, [])
        wanted = f"'{path}' begins with {some(head) or 'nothing'}, and not with {', '.join(_QUESTION)}."
        require(tuple(head) == _QUESTION, wanted)
        rows = [(lines.line_num, row) for row in lines if row]
    except csv.Error as error:
        raise UserError(f"'{path}' line {lines.line_num} is not CSV ({first_line(error)}).") from None
    require(len(rows) % 2 == 0, f"'{path}' has {len(rows)} statements; two that follow each other are a pair.")
    for (number, first), (_, second) in zip(rows[::2], rows[1::2], strict=True):
        where = f"'{path}' line {number}"
        whole = len(first) == len(second) == 3 and first[1] == second[1]
        require(whole, f"{where} and the next are no pair: they need three values each, and the same Type.")
        images = [places_of(f"{kind}/{each}.jpg", _MMVP_FOLDERS) for each, kind, _ in (first, second)]
        yield ProbeEntry(f"{first[0]}_{second[0]}", where, images, [first[2], second[2]], PAIRED, first[1])
