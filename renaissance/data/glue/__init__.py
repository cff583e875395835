"""GLUE, read where and as its users have it.

Files of the Hub, or the official .tsv files, without conversion:

    <data_root>[/glue]/<name>/<split>/state.json, *.arrow        `datasets.DatasetDict.save_to_disk`
    <data_root>[/glue]/<name>/<split>-00000-of-00001.parquet     the Hub's own files
    <data_root>[/glue]/<folder>/<split>.tsv                      the official download

Names, folders, splits and columns are those of `specs.GLUE`. A split becomes a table of columns (memory-mapped where
it was saved as arrow), never an object a row; loader processes get paths and read the files again.
"""

from __future__ import annotations

import bisect
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from renaissance.core.errors import UserError, first_line, printable, require, shortened, suggest
from renaissance.core.untrusted import parse_json
from renaissance.data.arrow import some
from renaissance.data.file_cache import refuse_changed, stamp
from renaissance.data.messages import refuse_claims
from renaissance.data.samples import FileSummary, Sample
from renaissance.data.saved_datasets import state_files

from .specs import GLUE, GLUE_SCORES, GlueTask

# QQP, the largest, has 390,965 rows of 60 MB; a parquet file of some kB may claim, and hold, a thousand times as much.
MOST_ROWS, MOST_BYTES = 5_000_000, 1 << 30
_LONGEST_HEADER = 1 << 20  # bytes of a .tsv file's first line
MOST_BROKEN = 0.001  # share of a .tsv file's rows that may lack columns, as a few of QQP's train.tsv do
_SCORE_DECIMALS = 3  # as STS-B has them; the Hub keeps 3.8 as the nearest number of 32 bits
_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_null)  # types of labels and ids, beside texts
_HIDDEN = ("", "-1", "-1.0")  # labels where the right answer is not public


# Of a file: its rows, the file's name of each of our columns, and how many rows are left out.
_Content = tuple[pa.Table, dict[str, str], int]
_Reader = Callable[[str, GlueTask, str], _Content]


def glue_task(name: str) -> GlueTask:
    """Returns the specification of a task of GLUE. Raises UserError where there is no such task."""
    if name not in GLUE:
        near = suggest(name, GLUE)
        raise UserError(f"datasets names '{name}'{near}, which is no task of GLUE; give one of {', '.join(GLUE)}.")
    return GLUE[name]


def glue_splits(name: str, data_root: str | os.PathLike) -> tuple[str, ...]:
    """Returns the splits of a task of GLUE that are there, in the order of the table.

    Raises:
        UserError: there is no such task, or no file of it.
    """
    splits = tuple(split for split in glue_task(name).splits if _find(name, split, Path(data_root))[1])
    if not splits:
        raise _missing(name, "train", Path(data_root))
    return splits


class GlueDataset:
    """One split of a task of GLUE. A map-style data set of `Sample`s without images; it pickles small.

    The values of a sample are "text", "second" (None where the task has single sentences), "label" (the number of a
    class, a score, or None where it is hidden) and "id", by which GLUE's server knows it.

    Args:
        data_root: the folder that holds the folder of the task.
        name: a key of `specs.GLUE`.
        split: one of its splits.
        training: whether a split without labels is refused.

    Attributes:
        name, split: as given.
        columns: those that hold something.
        broken: rows that were left out because they lack columns.

    Raises:
        UserError: no such task, split or file; a file that is damaged, lacks a column, or has a label out of range.
    """

    def __init__(self, data_root: str | os.PathLike, name: str, split: str, *, training: bool = False):
        self.name, self.split, row, root = name, split, glue_task(name), Path(data_root)
        splits = ", ".join(row.splits)
        require(split in row.splits, f"'{name}' of GLUE has no split '{split}'; its splits are {splits}.")
        self._read_file, paths = _find(name, split, root)
        if not paths:
            raise _missing(name, split, root)
        self._paths, self._shown = [str(path) for path in paths], [path.relative_to(root).as_posix() for path in paths]
        self._stamps = [stamp(path) for path in self._paths]
        self._table: pa.Table | None = self._read()
        self.broken = sum(self._rows) - len(self)
        known = len(self) - self._table["label"].null_count
        self.columns = tuple(column for column in self._table.column_names if column != "label" or known)
        if known < len(self) and (known or training):
            wanted = "training needs one in every row" if training else "expected one in every row, or in none"
            raise UserError(f"'{self._paths[0]}' has labels in {known:,} of {len(self):,} rows; {wanted}.")

    def __len__(self) -> int:
        return self._ends[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_table": None}

    def __getitem__(self, index: int) -> Sample:
        """Reads one sample. Raises IndexError outside 0 <= index < len."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        if self._table is None:
            for path, then in zip(self._paths, self._stamps, strict=True):
                refuse_changed(path, then)
            self._table = self._read()
        values = {name: self._table[name][index].as_py() for name in self._table.column_names}
        file = bisect.bisect_right(self._ends, index)
        where = f"{self._shown[file]} row {index - self._ends[file] + self._used[file]}"
        return Sample(int(index), int(index), (), {"second": None, **values}, where)

    def describe(self) -> list[FileSummary]:
        """Returns what each file gives, in order: its rows, and those of them that are used."""
        counts = zip(self._shown, self._rows, self._used, strict=True)
        return [FileSummary(self.name, file, rows, used) for file, rows, used in counts]

    def fingerprint(self) -> dict[str, dict[str, Any]]:
        """Returns file name -> fingerprint, as `SampleDataset.fingerprint`."""
        prints = {}
        for file, now, end in zip(self.describe(), self._stamps, self._ends, strict=True):
            ends = [self[end - back].values for back in (file.samples, 1) if file.samples]
            prints[file.file] = file.fingerprint(now, json.dumps(ends).encode())
        return prints

    def _read(self) -> pa.Table:
        """Returns the split as one table; notes how many rows each file has, and how many are used."""
        task, tables, self._rows = GLUE[self.name], [], []
        path = self._paths[0]
        try:
            for path in self._paths:
                table, columns, left_out = self._read_file(path, task, self.split)
                tables.append(_checked(path, table, columns, task))
                self._rows.append(len(table) + left_out)
            whole = pa.concat_tables(tables)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(f"'{path}' cannot be read or is damaged ({first_line(error)}).") from None
        self._used = [len(table) for table in tables]
        self._ends = np.cumsum(self._used).tolist()
        require(len(whole), f"'{path}' has no rows; expected at least one.")
        once = not self.split.startswith("test") or pc.count_distinct(whole["id"]).as_py() == len(whole)
        require(once, f"'{path}' has duplicate ids; GLUE's server needs unique ones.")
        return whole


def _find(name: str, split: str, root: Path) -> tuple[_Reader, list[Path]]:
    """Finds the files of a split, in order, and what reads them. Raises UserError where two layouts have it."""
    task = GLUE[name]
    hub, tsv = task.splits[split]
    found = []
    for base in (root, root / "glue"):
        official = base / task.folder / f"{tsv}.tsv"
        saved = base / name / hub
        whole = state_files(saved, f"datasets names '{name}'") if (saved / "state.json").is_file() else []
        found += [(_saved, list(map(Path, whole))), (_parquet, _shards(base / name, hub))]
        found += [(_tsv, [official] if official.is_file() else [])]
    found = [(read, paths) for read, paths in found if paths]
    if len(found) > 1:
        places = " and ".join(str(paths[0]) for _, paths in found)
        raise UserError(f"data_root='{root}' holds split '{split}' of '{name}' twice, {places}; remove one of them.")
    return found[0] if found else (_tsv, [])


def _shards(folder: Path, split: str) -> list[Path]:
    """Returns all parquet files of a split as their names count them; those that lack are found when they are opened."""
    pattern = re.compile(rf"{split}-\d{{5}}-of-(\d{{5}})\.parquet")
    counts = {match[1] for each in folder.glob("*.parquet") if (match := pattern.fullmatch(each.name))}
    return [folder / f"{split}-{n:05d}-of-{count}.parquet" for count in sorted(counts) for n in range(int(count))]


def _missing(name: str, split: str, root: Path) -> UserError:
    row = GLUE[name]
    hub, tsv = row.splits[split]
    wanted = f"{row.folder}/{tsv}.tsv, {name}/{hub}-00000-of-00001.parquet or {name}/{hub}/state.json"
    names = sorted(each.relative_to(root).as_posix() for each in (*root.glob("*"), *root.glob(f"*/{row.folder}")))
    found = shortened(names, 8) or "nothing"
    return UserError(f"GLUE's '{name}' needs {wanted} in data_root='{root}'; found: {found}.")


def _saved(path: str, task: GlueTask, split: str) -> _Content:
    with pa.memory_map(path) as mapped:
        whole = mapped.read_buffer()
    refuse_claims(path, whole, stream=True)
    table = pa.ipc.open_stream(whole).read_all()
    return table, _hub_columns(path, table.schema, task), 0


def _parquet(path: str, task: GlueTask, split: str) -> _Content:
    claims = pq.ParquetFile(path)
    groups = [claims.metadata.row_group(number).total_byte_size for number in range(claims.num_row_groups)]
    _refuse_large(path, claims.metadata.num_rows, sum(groups))
    columns = _hub_columns(path, claims.schema_arrow, task)
    coded = [name for name in columns.values() if _is_text(claims.schema_arrow.field(name).type)]
    # Read as codes and the different texts, a text that stands in a million rows takes its room once.
    table = pq.ParquetFile(path, read_dictionary=coded).read(columns=list(columns.values()))
    parts = [part for name in coded for part in table[name].chunks]
    lengths = [pc.sum(pc.take(pc.binary_length(part.dictionary), part.indices)).as_py() or 0 for part in parts]
    _refuse_large(path, len(table), sum(lengths))
    return table, columns, 0


def _refuse_large(path: str, rows: int, size: int) -> None:
    most = f"at most {MOST_ROWS:,} rows and {MOST_BYTES:,} bytes are read"
    small = rows <= MOST_ROWS and size <= MOST_BYTES
    require(small, f"'{path}' claims {rows:,} rows and {size:,} bytes of content; of a task of GLUE {most}.")


def _hub_columns(path: str, schema: pa.Schema, task: GlueTask) -> dict[str, str]:
    """Returns our name and the file's of each column. Refuses labels that mean other classes, where the file tells."""
    content = (schema.metadata or {}).get(b"huggingface", b"{}")
    labels: Any = parse_json(content, name=f"The 'huggingface' metadata of '{path}'")
    for key in ("info", "features", "label", "names"):
        labels = labels.get(key) if isinstance(labels, dict) else None
    if labels is not None and labels != list(task.labels):
        names = some(map(str, labels if isinstance(labels, list) else [labels]))
        raise UserError(f"'{path}' numbers its labels {names}; expected {', '.join(task.labels)}.")
    columns = _columns(path, task.texts, {"label": "label", "id": "idx"}, schema.names)
    for ours, theirs in columns.items():
        kind = schema.field(theirs).type
        number = ours in ("label", "id") and any(is_kind(kind) for is_kind in _NUMBERS)
        wanted = "a string" if ours in ("text", "second") else "a number or a string"
        require(number or _is_text(kind), f"'{path}' has a column {theirs} of {kind} where {wanted} is expected.")
    return columns


def _tsv(path: str, task: GlueTask, split: str) -> _Content:
    with open(path, "rb") as file:
        header = file.readline(_LONGEST_HEADER).decode("utf-8-sig").rstrip("\r\n").split("\t")
    texts, test = task.tsv_texts or task.texts, split.startswith("test")
    bare = len(header) == len(task.tsv_bare) and not set(texts) <= set(header)
    header = task.tsv_bare if bare else header
    number = "id" if test and "id" in header else "index"  # of QQP, only the test's id is a row's number
    columns = _columns(path, texts, {"label": task.tsv_label, "id": number}, header)
    broken: list[Any] = []

    def skip(line: Any) -> str:
        broken.append(line)
        return "skip"

    wanted = list(columns.values())
    table = pa.csv.read_csv(
        path,
        # With threads, rows have no numbers.
        pa.csv.ReadOptions(use_threads=False, column_names=header if bare else None),
        pa.csv.ParseOptions(delimiter="\t", quote_char=False, invalid_row_handler=skip),
        pa.csv.ConvertOptions(include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string())),
    )
    if len(broken) > (0 if test else MOST_BROKEN * len(table)):
        raise UserError(
            f"'{path}' line {broken[0].number} has {broken[0].actual_columns} columns, expected "
            f"{broken[0].expected_columns} ({len(broken):,} such lines); is the file complete?"
        )
    return table, columns, len(broken)


def _columns(path: str, texts: Sequence[str], optional: Mapping[str, str], given: Sequence[str]) -> dict[str, str]:
    """Returns our name and the file's of each column that is read. Raises UserError for one that lacks or is there twice."""
    columns = dict(zip(("text", "second"), texts, strict=False))
    columns |= {ours: theirs for ours, theirs in optional.items() if theirs in given}
    for name in columns.values():
        require(list(given).count(name) == 1, f"'{path}' needs one column {name}; its columns are {some(given)}.")
    return columns


def _checked(path: str, table: pa.Table, columns: Mapping[str, str], task: GlueTask) -> pa.Table:
    """Checks the columns of a file and brings them to one form."""
    table = table.select(list(columns.values())).rename_columns(list(columns))
    # Arrow trusts the offsets in a file: reading through a damaged one would end the process, not the run.
    table.validate(full=True)
    found = {name: table[name].cast(pa.string()) for name in ("text", "second") if name in columns}
    label = table["label"] if "label" in columns else pa.nulls(len(table), pa.string())
    found["label"] = _labels(path, label, task)
    found["id"] = table["id"].cast(pa.int64()) if "id" in columns else pa.array(np.arange(len(table)))
    for name, column in found.items():
        if name != "label" and column.null_count:
            raise UserError(f"'{path}' row {pc.index(column.is_null(), True)} has no {name}.")
    return pa.table(found)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _labels(path: str, given: pa.ChunkedArray, task: GlueTask) -> pa.ChunkedArray:
    """Returns numbers of classes, or scores of 64 bits; null where they are hidden."""
    given = pc.fill_null(given.cast(pa.string()), "")
    hidden = pc.is_in(given, pa.array(_HIDDEN))
    if task.labels:
        numbers = [*range(len(task.labels))]
        places = pc.index_in(given, pa.array([*task.labels, *map(str, numbers)]))
        values, allowed = pc.take(pa.array(numbers * 2), places), f"{', '.join(task.labels)} or 0 to {numbers[-1]}"
    else:
        scores = pc.round(pc.if_else(hidden, None, given).cast(pa.float64()), _SCORE_DECIMALS)
        low, high = GLUE_SCORES
        inside = pc.and_(pc.greater_equal(scores, low), pc.less_equal(scores, high))
        values, allowed = pc.if_else(inside, scores, None), f"a number from {low:g} to {high:g}"
    first = pc.index(pc.or_(hidden, values.is_valid()), False).as_py()
    if first >= 0:
        raise UserError(f"'{path}' row {first} has label {printable(given[first].as_py())[:60]}; expected {allowed}.")
    return pc.if_else(hidden, None, values)
