"""Own captions -> <name>_{train,val,test}.arrow.

The annotations are one file of (path, caption), UTF-8:

    captions.jsonl    {"path": "photos/1.jpg", "caption": "a dog"}            one object a line
                      {"path": "photos/2.jpg", "caption": ["a cat", "sleeping"], "split": "val"}
    captions.csv      path,caption                                            with this header
                      photos/1.jpg,a dog
    captions.parquet  columns path and caption, or the images themselves
    captions_val.json COCO's, or a list of {"image": ..., "caption": ...}
    00000.tar         webdataset: 1.jpg, 1.txt (or 1.json with a caption)
    a folder          what the library `datasets` has saved

Paths lead from `root` to the images. `caption`, also called `captions`, is a text or (not in CSV) a list of texts. A
image may come several times, anywhere in the file: its captions are put together in their order. `split` is optional
(train, val or test, or another usual word for them); where it is absent, the name of the file may say it: `mine_val.csv`.
Several files are read together if the name of each says a split.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from renaissance.core.errors import require, shortened
from renaissance.core.splits import split_of
from renaissance.data.arrow import rows_of
from renaissance.data.dataset_specs import LISTS, OWN_FILE, OWN_NAME, OWN_SPLITS, TAR
from renaissance.data.saved_datasets import is_saved_folder, read_saved

from .annotation_store import AnnotationStore, plain_name
from .annotations import folder_of
from .listings import (
    Form,
    PairFile,
    entries_of,
    has_images,
    pair_file_of,
    rows_with_images,
    splits_of_rows,
)
from .names import files_in
from .own import check_name, check_val_share, is_validation, leftovers
from .skipped import Skipped
from .tables import Line
from .tars import require_captions, require_whole, tar_entries
from .writer import Download, Plan, arrow_writer, plan_file, plan_stored

_KINDS = f"{', '.join(LISTS)} or {TAR}"


@arrow_writer
def make_arrow(
    root: Path,
    *,
    name: str = OWN_NAME,
    annotations: str | None = None,
    val_share: float = 0.0,
    image_column: str | None = None,
    caption_column: str | None = None,
    separator: str | None = None,
) -> Download:
    """Writes one file for each split that has images.

    Args:
        root: as for every `make_arrow`.
        name: the data set's name, as later given to `datasets=[...]`.
        annotations: the annotation file, below root; None = the only file of its kinds directly in root.
        val_share: share of the images, chosen by a hash of their paths, that goes to val instead of train where the
            annotations name no split. An image stays on its side when others are added.
        image_column, caption_column: of a table, or the caption's key in a .json of a tar; None = the usual names.
        separator: of a CSV file; None = a comma, in .tsv a tab.

    Raises:
        UserError: a bad option, a missing or malformed annotation file (with the line), or one of the refusals of
            `arrow_writer`.
    """
    check_val_share(val_share)
    check_name(name, OWN_NAME)
    form, options = Form(image_column, caption_column, separator), {"name": name, "val_share": val_share}
    if is_saved_folder(root):
        saved = read_saved(root, f"root='{root}'")
        given = {"annotations": annotations, "separator": separator}
        idle = [f"{setting}={value!r}" for setting, value in given.items() if value is not None]
        require(
            not idle, f"{', '.join(idle)}: root='{root}' is of the library `datasets` and has no lists; leave it out."
        )
        for each in saved.splits.values():
            if each.exact and each.rows is not None:
                each.require_rows(sum(map(rows_of, each.files)), f"root='{root}'")
        sources = [PairFile(Path(file), split) for split, each in saved.splits.items() for file in each.files]
        return _whole_files(sources, form, root, options, saved.note)
    listings = _annotation_files(folder_of(root, f"images and captions ({_KINDS})"), annotations)
    tars, lines = listings[0].suffix == TAR, any(listing.suffix in (".csv", ".tsv") for listing in listings)
    idle = f"separator={separator!r} is of .csv and .tsv files, and '{listings[0].name}' is none; leave it out."
    require(separator is None or lines, idle)
    if tars or has_images(listings[0], form):
        idle = f"image_column={image_column!r} is of tables, and these are tars; leave it out."
        require(not tars or image_column is None, idle)
        return _whole_files([pair_file_of(listing) for listing in listings], form, root, options)
    store, read_from = AnnotationStore(), defaultdict(list)
    for listing in listings:
        splits = Counter(_add(store, listing, line, val_share) for line in entries_of(listing, form, root))
        require(splits, f"'{listing}' has no captions; expected one (path, caption) a line.")
        for split in splits:
            read_from[split].append(listing.name)
    plans = []
    for split in sorted(read_from, key=OWN_SPLITS.index):
        file, rows = OWN_FILE.format(name=name, split=split), store.caption_rows(split)
        notes = [f"Read from {', '.join(read_from[split])}."]
        plans.append(plan_stored(store, OWN_NAME, file, split, rows, metadata={"dataset": name}, notes=notes))
    return Download(
        OWN_NAME,
        plans,
        source={"annotations": ", ".join(listing.name for listing in listings)},
        options=options,
        leftovers=leftovers(name, read_from),
    )


def _whole_files(sources: list[PairFile], form: Form, root: Path, options: dict[str, Any], note: str = "") -> Download:
    """The plan of files that hold the images themselves: tars, parquet files, and what the library `datasets` saves."""
    share, name = options["val_share"], options["name"]
    require(not share, f"val_share={share} is for lists of paths; the names of files say the splits here.")
    tars, by_split = sources[0].path.suffix == TAR, defaultdict(list)
    for source in sources:  # all of them are looked at before the first file is written
        if tars:
            require_whole(source.path)
        for split in [source.split] if tars else splits_of_rows(source, form):
            by_split[split].append(source)
    if tars:
        require_captions(sources[0].path, form.caption_column)
    plans: list[Plan] = []
    for split in sorted(by_split, key=OWN_SPLITS.index):
        rows: Iterable[Any] = rows_with_images(by_split[split], form, split, root)
        if tars:
            files = [source.path for source in by_split[split]]
            rows = chain.from_iterable(tar_entries(tar, f"{tar.stem}/", split, form.caption_column) for tar in files)
        file = OWN_FILE.format(name=name, split=split)
        notes = [f"Read from {', '.join(source.name for source in by_split[split])}.", *filter(None, [note])]
        metadata = {"dataset": name}
        plans.append(plan_file(OWN_NAME, file, split, rows, metadata, listed=None, skipped=Skipped(), notes=notes))
    about = {"annotations": ", ".join(source.name for source in sources)}
    return Download(OWN_NAME, plans, source=about, options=options, leftovers=leftovers(name, by_split))


def _annotation_files(folder: Path, annotations: str | None) -> list[Path]:
    if annotations is not None:
        known = isinstance(annotations, str) and Path(annotations).suffix in (*LISTS, TAR)
        require(
            known and (folder / annotations).is_file(),
            f"annotations='{annotations}' is not a {_KINDS} file in root='{folder}'.",
        )
        return [folder / annotations]
    files = files_in(folder)
    if tars := [path for path in files if path.suffix == TAR]:  # and what img2dataset leaves beside them
        beside = {tar.stem for tar in tars} | {f"{tar.stem}_stats" for tar in tars}
        found = [path for path in files if path.suffix in LISTS and path.stem not in beside]
        others = ", ".join(path.name for path in found)
        require(not found, f"root='{folder}' has tars, and beside them {others}; choose with annotations=<file>.")
        return tars
    found = [path for path in files if path.suffix in LISTS]
    found = [path for path in found if path.suffix != ".json"] or found  # beside tables it may be anything
    names = (
        ", ".join(path.name for path in found) or f"none ({shortened((each.name for each in files), 8) or 'no file'})"
    )
    require(
        len(found) == 1 or (found and all(split_of(path.stem) for path in found)),
        f"root='{folder}' needs one {_KINDS} file, or one for each split with train, val or test in its name, found "
        f"{names}; choose with annotations=<file>.",
    )
    return found


def _add(store: AnnotationStore, listing: Path, line: Line, val_share: float) -> str:
    """Returns the split that the line belongs to."""
    split = split_of(line["split"], whole=True) if line["split"] else pair_file_of(listing).split
    require(split, f"'{listing}' line {line['number']} has split '{line['split']}'; give {', '.join(OWN_SPLITS)}.")
    if not line["split"] and split == "train" and is_validation(plain_name(line["path"]), val_share):
        split = "val"
    store.add(line["path"], split, line["caption"])
    return split
