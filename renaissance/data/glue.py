"""GLUE as its users have it on disk, without conversion: files of the Hub, or the official .tsv files.

    <data_root>[/glue]/<name>/<split>/state.json, *.arrow        `datasets.DatasetDict.save_to_disk`
    <data_root>[/glue]/<name>/<split>-00000-of-00001.parquet     the Hub's own files
    <data_root>[/glue]/<folder>/<split>.tsv                      the official download

Names, folders, splits and columns are those of `glue_specs.GLUE`. A split becomes a table of columns (memory-mapped where
it was saved as arrow), never an object a row; loader processes get paths and read the files again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from renaissance.core.errors import UserError, first_line, printable, shortened, suggest
from renaissance.core.untrusted import parse_json, read_json

from .arrow import some
from .file_cache import stamp
from .glue_specs import GLUE, GLUE_SCORES, GlueTask
from .identity import image_key
from .messages import refuse_claims
from .samples import FileSummary, Sample

# QQP, the largest, has 390,965 rows of 60 MB; a parquet file of some kB may claim, and hold, a thousand times as much.
MOST_ROWS, MOST_BYTES = 5_000_000, 1 << 30
_LONGEST_HEADER = 1 << 20  # bytes of a .tsv file's first line
MOST_BROKEN = 0.001  # share of a .tsv file's rows that may lack columns, as a few of QQP's train.tsv do
_HIDDEN = -1  # the Hub's label where the right answer is not public
_SCORE_DECIMALS = 3  # as STS-B has them; the Hub keeps 3.8 as the nearest number of 32 bits


class _Files(NamedTuple):
    """The files of a split. Attributes: form, "saved", "parquet" or "tsv"; folder; names, in order."""

    form: str
    folder: Path
    names: tuple[str, ...]


class _Part(NamedTuple):
    """A file as it was read. Attributes: table, of text, second, label and id; rows, with those that were left out."""

    table: pa.Table
    rows: int


def glue_task(name: str) -> GlueTask:
    """Return the row of a task of GLUE.

    Raises:
        UserError: there is no such task.
    """
    if name not in GLUE:
        near = suggest(name, GLUE)
        raise UserError(f"datasets names '{name}'{near}, which is no task of GLUE; give one of {', '.join(GLUE)}.")
    return GLUE[name]


def glue_splits(name: str, data_root: str | os.PathLike) -> tuple[str, ...]:
    """Return the splits of a task of GLUE that are there, in the order of the table.

    Raises:
        UserError: there is no such task, or no file of it.
    """
    there = tuple(split for split in glue_task(name).splits if _find(name, split, Path(data_root)))
    if not there:
        raise _missing(name, "train", Path(data_root))
    return there


class GlueSamples:
    """One split of a task of GLUE. A map-style data set of `Sample`s without pictures; it pickles small.

    The values of a sample are "text", "second" (None where the task has single sentences), "label" (the number of a
    class, a score, or None where it is hidden) and "id", by which GLUE's server knows it.

    Args:
        data_root: the folder that holds the folder of the task.
        name: a key of `glue_specs.GLUE`.
        split: one of its splits.
        training: whether a split without labels is refused.

    Attributes:
        name, split: the same.
        columns: those that hold something.
        broken: rows that were left out because they lack columns.

    Raises:
        UserError: no such task, split or file; a file that is damaged, lacks a column, or has a label out of range.
    """

    def __init__(self, data_root: str | os.PathLike, name: str, split: str, *, training: bool = False):
        self.name, self.split, row, root = name, split, glue_task(name), Path(data_root)
        if split not in row.splits:
            raise UserError(f"'{name}' of GLUE has no split '{split}'; its splits are {', '.join(row.splits)}.")
        files = _find(name, split, root)
        if files is None:
            raise _missing(name, split, root)
        self._form, self._paths = files.form, [str(files.folder / file) for file in files.names]
        self._shown = [(files.folder / file).relative_to(root).as_posix() for file in files.names]
        self._stamps = [stamp(path) for path in self._paths]
        self._rows: list[int] = []
        self._table: pa.Table | None = self._read()
        self.broken = sum(self._rows) - len(self)
        known = len(self) - self._table["label"].null_count
        self.columns = tuple(column for column in self._table.column_names if column != "label" or known)
        if known < len(self) and (known or training):
            wanted = "training needs one in every row" if training else "expected one in every row, or in none"
            raise UserError(f"'{self._paths[0]}' has labels in {known:,} of {len(self):,} rows; {wanted}.")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_table": None}

    def __getitem__(self, index: int) -> Sample:
        """Read one sample. Raises IndexError outside 0 <= index < len."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        if self._table is None:
            changed = [path for path, then in zip(self._paths, self._stamps, strict=True) if stamp(path) != then]
            if changed:
                raise UserError(f"'{changed[0]}' was changed since this run began; start the run again.")
            self._table = self._read()
        values = {name: self._table[name][index].as_py() for name in self._table.column_names}
        file = int(np.searchsorted(self._ends, index, side="right"))
        where = f"{self._shown[file]} row {index - (int(self._ends[file - 1]) if file else 0)}"
        return Sample(int(index), int(index), (), {"second": None, **values}, where)

    def describe(self) -> list[FileSummary]:
        """Return what each file gives, in order: its rows, and those of them that are used."""
        counts = zip(self._shown, self._rows, self._used(), strict=True)
        return [FileSummary(self.name, file, rows, used, 0, 0) for file, rows, used in counts]

    def fingerprint(self) -> dict[str, dict[str, Any]]:
        """Return, by file name, by what a later run can tell that its data are the same (`ArrowSamples.fingerprint`)."""
        prints = {}
        for place, (file, now, used) in enumerate(zip(self._shown, self._stamps, self._used(), strict=True)):
            ends = [self[int(self._ends[place]) - back].values for back in (used, 1) if used]
            prints[file] = {
                "bytes": now.size,
                "mtime_ns": now.mtime_ns,
                "pictures": self._rows[place],
                "pairs": used,
                "ends": f"{image_key(json.dumps(ends).encode()):016x}",
            }
        return prints

    def _used(self) -> list[int]:
        return np.diff(self._ends, prepend=0).tolist()

    def _read(self) -> pa.Table:
        """Return the split as one table; notes how many rows each file has, and how many are used."""
        row, read = GLUE[self.name], {"saved": _saved, "parquet": _parquet, "tsv": _tsv}[self._form]
        parts = [read(path, row, self.split) for path in self._paths]
        with _explained(self._paths[0]):
            # Shards may have strings of different widths.
            table = pa.concat_tables([part.table for part in parts], promote_options="permissive")
        self._rows = [part.rows for part in parts]
        self._ends = np.cumsum([part.table.num_rows for part in parts])
        if not table.num_rows:
            raise UserError(f"'{self._paths[0]}' has no rows; expected at least one.")
        if self.split.startswith("test") and pc.count_distinct(table["id"]).as_py() < table.num_rows:
            raise UserError(f"'{self._paths[0]}' numbers two rows alike; GLUE's server wants each number once.")
        return table


def _find(name: str, split: str, root: Path) -> _Files | None:
    """Find the files of a split, or None. Raises where two layouts have it, or shards are missing."""
    row = GLUE[name]
    hub, tsv = row.splits[split]
    found = []
    for base in (root, root / "glue"):
        if (base / name / hub / "state.json").is_file():
            found.append(_Files("saved", base / name / hub, _saved_names(base / name / hub / "state.json")))
        if shards := _shards(base / name, hub):
            found.append(_Files("parquet", base / name, shards))
        if (base / row.folder / f"{tsv}.tsv").is_file():
            found.append(_Files("tsv", base / row.folder, (f"{tsv}.tsv",)))
    if len(found) > 1:
        places = " and ".join(str(files.folder / files.names[0]) for files in found)
        raise UserError(f"data_root='{root}' holds split '{split}' of '{name}' twice, {places}; remove one of them.")
    return found[0] if found else None


def _saved_names(state: Path) -> tuple[str, ...]:
    listed = read_json(state, dict[str, Any]).get("_data_files")
    files = listed if isinstance(listed, list) else ()
    names = tuple(each.get("filename") if isinstance(each, dict) else None for each in files)
    if not names or not all(isinstance(name, str) and name == os.path.basename(name) != "" for name in names):
        raise UserError(f"'{state}' does not list its data files, by their names; save the data set again.")
    return names


def _shards(folder: Path, split: str) -> tuple[str, ...]:
    """Return all parquet files of a split as their names count them; those that lack are found when they are opened."""
    pattern = re.compile(rf"{split}-\d{{5}}-of-(\d{{5}})\.parquet")
    counts = {match[1] for each in folder.glob("*.parquet") if (match := pattern.fullmatch(each.name))}
    return tuple(f"{split}-{n:05d}-of-{count}.parquet" for count in sorted(counts) for n in range(int(count)))


def _missing(name: str, split: str, root: Path) -> UserError:
    row = GLUE[name]
    hub, tsv = row.splits[split]
    wanted = f"{row.folder}/{tsv}.tsv, {name}/{hub}-00000-of-00001.parquet or {name}/{hub}/state.json"
    try:
        there = sorted(each.relative_to(root).as_posix() for each in (*root.iterdir(), *root.glob(f"*/{row.folder}")))
    except OSError as error:
        return UserError(f"data_root='{root}' cannot be read ({error.strerror}); expected a folder with {wanted}.")
    return UserError(
        f"GLUE's '{name}' needs {wanted} in data_root='{root}'; found there: {shortened(there, 8) or 'nothing'}."
    )


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Turns what is wrong with a file into a sentence."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        why = first_line(error)
        raise UserError(f"'{path}' cannot be read or is damaged ({why}).") from None


def _saved(path: str, row: GlueTask, split: str) -> _Part:
    with _explained(path), pa.memory_map(path) as mapped:
        whole = mapped.read_buffer()
        refuse_claims(path, whole, stream=True)
        table = pa.ipc.open_stream(whole).read_all()
    return _of_hub(path, table, row)


def _parquet(path: str, row: GlueTask, split: str) -> _Part:
    with _explained(path):
        file = pq.ParquetFile(path)
        schema, claims = file.schema_arrow, file.metadata
        claimed = sum(claims.row_group(number).total_byte_size for number in range(claims.num_row_groups))
        _refuse_large(path, claims.num_rows, claimed)
        names = [name for name in (*row.texts, "label", "idx") if name in schema.names]
        _check_columns(path, names, schema.names)
        kinds = {name: schema.field(name).type for name in names}
        if nested := [name for name, kind in kinds.items() if kind.num_fields or pa.types.is_dictionary(kind)]:
            raise UserError(f"'{path}' has a column '{nested[0]}' of lists or codes; expected texts and numbers.")
        # Read as codes and the different texts, a text that stands in a million rows takes its room once.
        coded = [name for name, kind in kinds.items() if _is_text(kind) or pa.types.is_binary(kind)]
        file = pq.ParquetFile(path, read_dictionary=coded)
        parts, size = [file.schema_arrow.empty_table().select(names)], 0
        for batch in file.iter_batches(columns=names):
            for column in batch.columns:
                lengths = pc.binary_length(column.dictionary) if pa.types.is_dictionary(column.type) else None
                size += (
                    (pc.sum(pc.take(lengths, column.indices)).as_py() or 0) if lengths is not None else column.nbytes
                )
            _refuse_large(path, 0, size)
            parts.append(pa.Table.from_batches([batch]).select(names))
        table = pa.concat_tables(parts)
        table = pa.table({name: table[name].cast(kind) for name, kind in kinds.items()}, metadata=schema.metadata)
    return _of_hub(path, table, row)


def _refuse_large(path: str, rows: int, size: int) -> None:
    if rows > MOST_ROWS or size > MOST_BYTES:
        raise UserError(
            f"'{path}' claims {rows:,} rows and {size:,} bytes of content; of a task of GLUE at most {MOST_ROWS:,} rows and "
            f"{MOST_BYTES:,} bytes are read."
        )


def _of_hub(path: str, table: pa.Table, row: GlueTask) -> _Part:
    there = [name for name in ("label", "idx") if name in table.column_names]
    _check_columns(path, (*row.texts, *there), table.column_names)
    _check_label_names(path, table.schema, row)
    label, number = (table[name] if name in there else None for name in ("label", "idx"))
    return _part(path, [table[name] for name in row.texts], label, number, row, table.num_rows)


def _check_label_names(path: str, schema: pa.Schema, row: GlueTask) -> None:
    """Refuse a file whose numbers mean other classes, where it tells."""
    said: Any = parse_json(
        (schema.metadata or {}).get(b"huggingface", b"{}"), name=f"The 'huggingface' metadata of '{path}'"
    )
    for key in ("info", "features", "label", "names"):
        said = said.get(key) if isinstance(said, dict) else None
    if said is not None and (not isinstance(said, list) or tuple(said) != row.labels):
        names = some([str(name) for name in said]) if isinstance(said, list) else printable(str(said))[:60]
        raise UserError(f"'{path}' numbers its labels {names}; expected {', '.join(row.labels)}.")


def _tsv(path: str, row: GlueTask, split: str) -> _Part:
    with _explained(path), open(path, "rb") as file:
        first = file.readline(_LONGEST_HEADER).decode("utf-8-sig").rstrip("\r\n").split("\t")
    texts, test = row.tsv_texts or row.texts, split.startswith("test")
    bare = len(first) == len(row.tsv_bare) and not set(texts) <= set(first)
    there = row.tsv_bare if bare else first
    _check_columns(path, texts, there)
    number = next((name for name in ("index", *(["id"] if test else ())) if name in there), None)  # QQP's test has id
    label = row.tsv_label if row.tsv_label in there else None
    wanted = [name for name in (*texts, label, number) if name]
    _check_columns(path, wanted, there)
    broken: list[Any] = []

    def skip(line: Any) -> str:
        broken.append(line)
        return "skip"

    with _explained(path):
        table = pa.csv.read_csv(
            path,
            # With threads, rows have no numbers.
            pa.csv.ReadOptions(use_threads=False, column_names=there if bare else None),
            pa.csv.ParseOptions(delimiter="\t", quote_char=False, invalid_row_handler=skip),
            pa.csv.ConvertOptions(include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string())),
        )
    if len(broken) > (0 if test else MOST_BROKEN * table.num_rows):
        raise UserError(
            f"'{path}' line {broken[0].number} has {broken[0].actual_columns} columns, expected "
            f"{broken[0].expected_columns} ({len(broken):,} such lines); is the file complete?"
        )
    columns = [table[name] for name in texts], *(table[name] if name else None for name in (label, number))
    return _part(path, *columns, row, table.num_rows + len(broken))


def _check_columns(path: str, wanted: Sequence[str], there: Sequence[str]) -> None:
    lacking = [name for name in wanted if name not in there]
    if lacking:
        raise UserError(f"'{path}' lacks the column {', '.join(lacking)}; its columns are {some(there)}.")
    if twice := [name for name in wanted if list(there).count(name) > 1]:
        raise UserError(f"'{path}' has the column {twice[0]} more than once; its columns are {some(there)}.")


def _part(
    path: str,
    texts: Sequence[pa.ChunkedArray],
    label: pa.ChunkedArray | None,
    number: pa.ChunkedArray | None,
    row: GlueTask,
    rows: int,
) -> _Part:
    """Check the columns of a file and bring them to one form. `rows`: with those that were left out."""
    count = len(texts[0])
    kind = pa.int64() if row.labels else pa.float64()
    columns = dict(zip(("text", "second"), texts, strict=False))
    for text in texts:
        if not _is_text(text.type):
            raise UserError(f"'{path}' has a column of {text.type} where a string is expected.")
    with _explained(path):
        columns["label"] = pa.nulls(count, kind) if label is None else _labels(path, label, row).cast(kind)
        columns["id"] = pa.array(np.arange(count)) if number is None else number.cast(pa.int64())
        table = pa.table(columns)
        # Arrow trusts the offsets in a file: reading through a damaged one would end the process, not the run.
        table.validate(full=True)
    for name in columns.keys() - {"label"}:
        if table[name].null_count:
            raise UserError(f"'{path}' row {pc.index(table[name].is_null(), True)} has no {name}.")
    return _Part(table, rows)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _labels(path: str, given: pa.ChunkedArray, row: GlueTask) -> pa.ChunkedArray:
    """Return numbers of classes, or scores; null where they are hidden."""
    classes = len(row.labels)
    low, high = (0, classes - 1) if row.labels else GLUE_SCORES
    if _is_text(given.type):
        given = pc.if_else(pc.equal(given, ""), None, given)
    if row.labels and _is_text(given.type):
        words = [*row.labels, *map(str, range(classes)), str(_HIDDEN)]
        values = pc.index_in(given, value_set=pa.array(words, given.type))
        values = pc.take(pa.array([*range(classes), *range(classes), _HIDDEN]), values)
    else:
        values = given if row.labels else pc.round(given.cast(pa.float64()), _SCORE_DECIMALS)
    hidden = pc.or_kleene(given.is_null(), pc.equal(values, _HIDDEN)).fill_null(False)
    right = pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high)).fill_null(False)
    first = pc.index(pc.or_(hidden, right), False).as_py()
    if first >= 0:
        allowed = f"{', '.join(row.labels)} or 0 to {high}" if row.labels else f"a number from {low:g} to {high:g}"
        raise UserError(f"'{path}' row {first} has the label {printable(str(given[first]))[:60]}; expected {allowed}.")
    return pc.if_else(hidden, None, values)
