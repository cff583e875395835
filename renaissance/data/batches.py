"""The record batches of Arrow files and of Arrow streams, under the names by which the program knows their columns."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from .dataset_specs import Column

STREAM = b"\xff\xff\xff\xff"  # how an Arrow stream begins


class Batches:
    """The record batches of an Arrow file, or of an Arrow stream, the form in which `datasets` saves.

    Args:
        whole: the content, mapped; nothing is copied out of it.
        columns: that are read, under the names that they declare; of `datasets`' images the bytes.

    Attributes:
        schema: with these names. names: of the columns as they are in the file. num_record_batches.
        has_paths: whether one of the batches that were read has images of `datasets` that are paths alone.
    """

    has_paths = False

    def __init__(self, whole: pa.Buffer, columns: Sequence[Column]):
        # All columns, though few are wanted: with `included_fields` Arrow copies what it reads out of the map.
        stream = is_stream(whole)
        reader = (pa.ipc.open_stream if stream else pa.ipc.open_file)(pa.BufferReader(whole))
        self._streamed = [*reader] if stream else None
        self._reader, self._columns = reader, [each for each in columns if self._is_another(reader.schema, each)]
        self.num_record_batches = len(self._streamed) if stream else reader.num_record_batches
        self.names = reader.schema.names
        self.schema = self._renamed(_no_rows(reader.schema)).schema

    def get_batch(self, number: int) -> pa.RecordBatch:
        """A batch. Raises an error of Arrow where it is damaged."""
        return self._renamed(self._reader.get_batch(number) if self._streamed is None else self._streamed[number])

    @staticmethod
    def _is_another(schema: pa.Schema, column: Column) -> bool:
        """Whether a column has another name or form in the file."""
        index = schema.get_field_index(column.source or column.name)
        return index >= 0 and (column.source not in ("", column.name) or _in_structs(schema.field(index).type, column))

    def _renamed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if not self._columns:
            return batch
        metadata, arrays = batch.schema.metadata, dict(zip(batch.schema.names, batch.columns, strict=True))
        for column in self._columns:
            array = batch[column.source or column.name]
            if _in_structs(array.type, column):
                array.validate(full=True)  # before Arrow follows its lengths
                parts = dict(zip((field.name for field in array.type), array.flatten(), strict=True))
                array = parts["bytes"]
                alone = pc.and_(array.is_null(), parts["path"].is_valid()) if "path" in parts else pa.array([False])
                self.has_paths |= bool(pc.any(alone).as_py())
            arrays[column.name] = array
        return pa.RecordBatch.from_pydict(arrays).replace_schema_metadata(metadata)


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def _in_structs(found: pa.DataType, column: Column) -> bool:
    """Whether a column has images as `datasets` saves them, structs of bytes and path."""
    return column.is_image and pa.types.is_struct(found) and found.get_field_index("bytes") >= 0


def is_stream(whole: pa.Buffer) -> bool:
    """Whether a file is an Arrow stream."""
    return whole[: len(STREAM)].to_pybytes() == STREAM
