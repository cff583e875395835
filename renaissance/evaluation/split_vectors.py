"""Vectors of the samples of a split with their labels, computed once and kept.

    samples -> model -> <folder>/part_<n>.parquet: vector, label, metadata -> LabelledFeatures

Parts are shared by processes, written whole, and found again, as those of `encode` are; the folder's name says what they are of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor

from renaissance.core.atomic import AtomicFile
from renaissance.core.errors import UserError, first_line, require
from renaissance.core.parts import make_parts
from renaissance.core.progress import Bar
from renaissance.core.types import Batch
from renaissance.data.collate import label_targets
from renaissance.data.file_cache import content_digest
from renaissance.data.loader import StepLoader
from renaissance.data.sampler import Draw
from renaissance.data.samples import TaskDataset

from .classifiers import LabelledFeatures
from .ranking import FullSplit

_ROWS = 1024  # samples of a part
_LABELS = "labels"  # of the targets of a batch


class VectorPart(NamedTuple):
    """The samples `first` to `end`. Attributes: folder; first; end; batch, samples of one pass."""

    folder: Path
    first: int
    end: int
    batch: int

    @property
    def target(self) -> Path:
        return self.folder / f"part_{self.first // _ROWS:05d}.parquet"

    @property
    def size(self) -> int:
        return self.end - self.first

    def is_missing(self) -> bool:
        return not self.target.exists()

    def draws(self, place: int) -> Iterator[list[Draw]]:
        for first in range(self.first, self.end, self.batch):
            yield [Draw(0, index) for index in range(first, min(first + self.batch, self.end))]


class SplitVectors:
    """The vectors of a split.

    Args:
        place: folder of all splits that were encoded alike. samples: of the split.
    """

    def __init__(self, place: Path, samples: TaskDataset):
        paths = samples.paths()
        known = json.dumps([[*map(content_digest, paths)], len(samples)])
        self.folder = place / f"{Path(paths[0]).stem[-60:]}-{hashlib.sha256(known.encode()).hexdigest()[:16]}"
        self.samples = samples

    def parts(self, batch: int = _ROWS) -> list[VectorPart]:
        """All parts, made in passes of so many samples."""
        count = len(self.samples)
        return [VectorPart(self.folder, first, min(first + _ROWS, count), batch) for first in range(0, count, _ROWS)]

    def fill(self, split: FullSplit, vectors_of: Callable[[Batch], Tensor], device: torch.device) -> None:
        """Makes what is missing, together with all processes that call it.

        Args:
            split: whose transform and batches serve; of whichever samples. vectors_of: (B,F) of a batch.

        Raises:
            UserError: a sample cannot be read, a vector is not finite, or the folder cannot be written.
        """
        missing = [part for part in self.parts(split.collate.per_gpu_batchsize) if part.is_missing()]
        source = copy(split.collate.source)
        source.dataset = self.samples
        collate = replace(split.collate, source=source, target_builders={_LABELS: label_targets})
        loader = partial(StepLoader, collate=collate, num_workers=split.num_workers, pin_memory=False)
        hide = split.rank > 0 or not missing
        write = partial(_write, vectors_of, device)
        with Bar(total=sum(part.size for part in missing), desc="encoding", unit=" samples", disable=hide) as bar:
            make_parts(missing, loader, "cache_dir", write, bar, split.rank, split.world_size)

    def read(self, device: torch.device) -> tuple[LabelledFeatures, list[Mapping[str, Any]]]:
        """All vectors and labels on a device, and the metadata of the samples.

        Raises:
            UserError: a part cannot be read.
        """
        vectors, labels, metadata = None, np.empty(len(self.samples), np.int64), []
        for part in self.parts():
            try:
                table = pq.read_table(part.target)
                rows = table["vector"].combine_chunks().flatten().to_numpy().reshape(part.size, -1)
                vectors = np.empty((len(labels), rows.shape[1]), np.float32) if vectors is None else vectors
                vectors[part.first : part.end], labels[part.first : part.end] = rows, table["label"].to_numpy()
                metadata += map(json.loads, table["metadata"].to_pylist())
            except (OSError, ValueError, KeyError, pa.ArrowException) as error:
                again = "remove it, and give the command again, which makes it anew"
                raise UserError(f"'{part.target}' cannot be read ({first_line(error)}); {again}.") from error
        return LabelledFeatures(torch.from_numpy(vectors).to(device), torch.from_numpy(labels).to(device)), metadata


def _write(
    vectors_of: Callable[[Batch], Tensor],
    device: torch.device,
    part: VectorPart,
    file: AtomicFile,
    items: Iterator[list[Batch]],
    bar: Bar,
) -> None:
    """Writes a part whole; reads no item behind its last."""
    tables, left = [], part.size
    while left:
        for batch in next(items):
            vectors, targets = vectors_of(move_data_to_device(batch, device)).float().cpu(), batch.targets[_LABELS]
            damaged = "a vector is not finite; the weights of load_path are damaged, or precision=32 is needed."
            require(vectors.isfinite().all(), damaged)
            flat, width = pa.array(vectors.flatten().numpy()), vectors.shape[1]
            columns = {"vector": pa.FixedSizeListArray.from_arrays(flat, width), "label": targets.labels.numpy()}
            tables.append(pa.table(columns | {"metadata": [json.dumps(each) for each in targets.metadata]}))
            left -= len(vectors)
            bar.update(len(vectors))
    pq.write_table(pa.concat_tables(tables), file)
    file.commit()
