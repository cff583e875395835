"""Own captions -> <name>_{train,val,test}.arrow.

The annotations are one file of (path, caption), UTF-8:

    captions.jsonl    {"path": "photos/1.jpg", "caption": "a dog"}            one object a line
                      {"path": "photos/2.jpg", "caption": ["a cat", "sleeping"], "split": "val"}
    captions.csv      path,caption                                            with this header
                      photos/1.jpg,a dog
    captions.parquet  columns path and caption

Paths lead from `root` to the images. `caption`, also called `captions`, is a text or (not in CSV) a list of texts. A
image may come several times, anywhere in the file: its captions are put together in their order. `split` is optional
(train, val or test, or another usual word for them); where it is absent, the name of the file may say it: `mine_val.csv`.
Several files are read together if the name of each says a split.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from renaissance.core.errors import require
from renaissance.data.dataset_specs import OWN_FILE, OWN_NAME, OWN_SPLITS
from renaissance.data.splits import split_of

from .annotation_store import AnnotationStore, plain_name
from .annotations import folder_of
from .names import files_in
from .own import check_name, check_val_share, is_validation, leftovers
from .tables import SUFFIXES, Line, lines_of
from .writer import Download, arrow_writer, plan_stored

_KINDS = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"


@arrow_writer
def make_arrow(root: Path, *, name: str = OWN_NAME, annotations: str | None = None, val_share: float = 0.0) -> Download:
    """Writes one file for each split that has images.

    Args:
        root: as for every `make_arrow`.
        name: the data set's name, as later given to `datasets=[...]`.
        annotations: the annotation file, below root; None = the only file of its kinds directly in root.
        val_share: share of the images, chosen by a hash of their paths, that goes to val instead of train where the
            annotations name no split. An image stays on its side when others are added.

    Raises:
        UserError: a bad option, a missing or malformed annotation file (with the line), or one of the refusals of
            `arrow_writer`.
    """
    check_val_share(val_share)
    check_name(name, OWN_NAME)
    listings = _annotation_files(folder_of(root, "images and captions.jsonl, .csv or .parquet"), annotations)
    store, read_from = AnnotationStore(), defaultdict(list)
    for listing in listings:
        splits = Counter(_add(store, listing, line, val_share) for line in lines_of(listing))
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
        options={"name": name, "val_share": val_share},
        leftovers=leftovers(name, read_from),
    )


def _annotation_files(folder: Path, annotations: str | None) -> list[Path]:
    if annotations is not None:
        known = isinstance(annotations, str) and Path(annotations).suffix in SUFFIXES
        require(
            known and (folder / annotations).is_file(),
            f"annotations='{annotations}' is not a {_KINDS} file in root='{folder}'.",
        )
        return [folder / annotations]
    found = [path for path in files_in(folder) if path.suffix in SUFFIXES]
    names = ", ".join(path.name for path in found) or "none"
    require(
        len(found) == 1 or (found and all(split_of(path.stem) for path in found)),
        f"root='{folder}' needs one {_KINDS} file, or one for each split with train, val or test in its name, found "
        f"{names}; choose with annotations=<file>.",
    )
    return found


def _add(store: AnnotationStore, listing: Path, line: Line, val_share: float) -> str:
    """Returns the split that the line belongs to."""
    split = split_of(line["split"], whole=True) if line["split"] else split_of(listing.stem) or "train"
    require(split, f"'{listing}' line {line['number']} has split '{line['split']}'; give {', '.join(OWN_SPLITS)}.")
    if not line["split"] and split == "train" and is_validation(plain_name(line["path"]), val_share):
        split = "val"
    store.add(line["path"], split, line["caption"])
    return split
