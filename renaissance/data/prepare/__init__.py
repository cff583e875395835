"""Raw downloads to arrow files.

`python run.py prepare with dataset=... root=... data_root=...` calls `prepare`. A data set is one row of
`dataset_specs.DATASETS`, and `make_arrow(root, dataset_root, ...)` in the module that the row names (`writer.arrow_writer`).
Nothing here imports torch or transformers.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

from renaissance.core.console import say
from renaissance.core.errors import UserError, printable, require, suggest
from renaissance.data.dataset_specs import DATASETS, WRITERS

from .skipped import in_words
from .writer import WRITE_OPTIONS


def prepare(
    dataset: str | None, root: str | os.PathLike | None, data_root: str | os.PathLike | None, **options: Any
) -> list[dict[str, Any]]:
    """Converts a raw download and prints a summary of each file.

    Args:
        dataset: a key of `dataset_specs.DATASETS`.
        root: the folder of the raw download.
        data_root: the folder to write to.
        options: keyword arguments of the data set's `make_arrow`; those that are None are left at their default.

    Returns:
        The manifests of the files written.

    Raises:
        UserError: an unknown data set, a missing folder, an option that the data set does not have, or a refusal of
            its `make_arrow`.
    """
    require(
        isinstance(dataset, str) and dataset in DATASETS,
        f"dataset={dataset!r} cannot be prepared{suggest(str(dataset), DATASETS)}; the data sets are {', '.join(DATASETS)}.",
    )
    for name, value in (("root", root), ("data_root", data_root)):
        require(
            isinstance(value, str | os.PathLike),
            f"prepare needs {name}=<folder>, not {value!r}: root holds the raw download, data_root takes the files.",
        )
    make_arrow = WRITERS[DATASETS[dataset].writer]
    options = {name: value for name, value in options.items() if value is not None}
    known = options_of(make_arrow)
    unknown = ", ".join(name for name in options if name not in known)
    require(not unknown, f"dataset={dataset} has no option {unknown}; its options are {', '.join(known)}.")
    if "dataset" in inspect.signature(make_arrow).parameters:  # one writer for several rows of the table
        options["dataset"] = dataset
    try:
        manifests = make_arrow(root, data_root, **options)
    except UserError as error:  # it may quote names of files, members and columns, which must not forge lines
        raise UserError(printable(str(error))) from error
    for manifest in manifests:
        say(_summary(manifest))
    return manifests


def options_of(make_arrow: Callable[..., Any]) -> list[str]:
    """Returns the names of a data set's options: its own, then `WRITE_OPTIONS`."""
    own = inspect.signature(make_arrow).parameters.values()
    names = [each.name for each in own if each.kind == each.KEYWORD_ONLY and each.name != "dataset"]
    return list(dict.fromkeys([*names, *WRITE_OPTIONS]))


def _summary(manifest: dict[str, Any]) -> str:
    line = (
        f"{manifest['file']}: {manifest['images']:,} images, {manifest['texts']:,} texts, "
        f"{manifest['bytes'] / 1e6:,.1f} MB"
    )
    line = "; ".join(filter(None, (line, in_words(manifest["skipped"]))))
    return f"{printable(line)}\n  {printable(manifest['note'])}" if manifest["note"] else printable(line)
