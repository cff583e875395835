"""Vectors of whole splits, in parts: what `encode` writes.

    inputs (a split, or files) -> parts of 1,024 -> loader processes -> model -> <output>/<side>/part_<n>.parquet
    all parts there            -> manifest.json (output.py); with file_type=npy the parts become .npy files

An image that cannot be read goes through the model as a black one, so that no batch changes for it; then its row is left out,
and the part says so. A part is written whole or not at all. Any number of processes, on any number of machines, share the parts
by their locks; the same command goes on where it was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
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
from renaissance.core.errors import UserError, require
from renaissance.core.parts import make_parts
from renaissance.core.progress import Bar
from renaissance.core.types import Example, ImageInput, TextInput, Tokens
from renaissance.data.collate import stack_images
from renaissance.data.loader import StepLoader
from renaissance.data.prepare.image_pool import Fault, read_image
from renaissance.data.prepare.skipped import Skipped
from renaissance.data.text import encode
from renaissance.models.heads import pool
from renaissance.training.devices import float32_products

from .inputs import FUSED, IMAGE, TEXT, FileInputs, SplitInputs, lasting_fault
from .loaded import Loaded
from .npy import ROWS, SKIPPED, flat

SIDES, TOKENS = (TEXT, IMAGE, FUSED), "tokens"
_ROWS, _ROWS_WITH_TOKENS = 1024, 128  # samples of a part


class EncodingPlan(NamedTuple):
    """What is made of which inputs; picklable.

    Attributes:
        load_path: of the model. inputs: what is read. sides: some of SIDES. tokens: whether token features are kept, too.
        store: "float16" or "float32". output: the folder. batch_size: samples of one pass. num_workers: loader processes.
        trust_remote_code: as of `Loaded`.
    """

    load_path: str
    inputs: SplitInputs | FileInputs
    sides: tuple[str, ...]
    tokens: bool
    store: str
    output: Path
    batch_size: int
    num_workers: int
    trust_remote_code: bool

    def parts(self) -> list[FeaturePart]:
        """All parts."""
        rows = _ROWS_WITH_TOKENS if self.tokens else _ROWS
        counts = {side: self.inputs.count(side) for side in self.sides}
        return [
            FeaturePart(self.output, side, number, first, min(first + rows, count), self.batch_size)
            for side, count in counts.items()
            for number, first in enumerate(range(0, count, rows))
        ]


class FeaturePart(NamedTuple):
    """The inputs `first` to `end` of a side. Attributes: output; side; number; first; end; batch, inputs of one pass."""

    output: Path
    side: str
    number: int
    first: int
    end: int
    batch: int

    @property
    def target(self) -> Path:
        return self.output / self.side / f"part_{self.number:05d}.parquet"

    @property
    def size(self) -> int:
        return self.end - self.first

    def is_missing(self) -> bool:
        return not (self.target.exists() or (self.target.parent / ROWS).exists())  # or it is joined

    def draws(self, place: int) -> Iterator[list[tuple[str, int]]]:
        """The inputs of each pass, for `make_parts`."""
        for first in range(self.first, self.end, self.batch):
            yield [(self.side, index) for index in range(first, min(first + self.batch, self.end))]


class _Reader:
    """What a `StepLoader` needs to read inputs in the place of samples."""

    def __init__(self, inputs: SplitInputs | FileInputs, images: Any, tokenizer: Any, max_text_len: int):
        self.inputs, self.images, self.tokenizer, self.max_text_len = inputs, images, tokenizer, max_text_len
        self.source, self.dataset = self, inputs.dataset

    def example(self, draw: tuple[str, int]) -> Example:
        """An input with its pixels; `faults` of its metadata are those of its images, by their places."""
        raw, images, faults, side = self.inputs.example(*draw), [], {}, self.images.transform.image_size
        for image in raw.images:
            shown = self._shown(raw, image)
            if isinstance(shown, Fault):
                faults[len(images)] = shown
                shown = (torch.zeros(3, side, side, dtype=torch.uint8),)
            images += shown
        return raw._replace(images=tuple(images), id=draw[1], metadata={"side": draw[0], "faults": faults})

    def _shown(self, raw: Example, image: bytes | Fault) -> tuple[Tensor, ...] | Fault:
        if isinstance(image, Fault):
            return image
        try:
            return self.images.images(raw._replace(images=(image,)), 0)
        except (UserError, MemoryError) as error:
            fault = lasting_fault(error, raw.where)
            found = read_image(image)  # in the words of `prepare`, where Pillow cannot read it either
            return found if isinstance(found, Fault) else fault

    def __call__(
        self, examples: Sequence[Example]
    ) -> tuple[Sequence[Example], TextInput | None, ImageInput | None, list[int]]:
        """Returns the examples without pixels, their texts, all images, and of each image its example's place."""
        owner = [place for place, example in enumerate(examples) for _ in example.images]
        pixels = [image for example in examples for image in example.images]
        image = stack_images(pixels, self.images.transform.keeps_aspect) if pixels else None
        text = None
        if examples[0].metadata["side"] != IMAGE:
            where = [example.where for example in examples]
            _, text = encode(self.tokenizer, [each.text for each in examples], self.max_text_len, where=where)
        return [example._replace(images=()) for example in examples], text, image, owner


class Encoder:
    """Makes the missing parts of a plan.

    Args:
        plan: of which. device: where the model computes.
    """

    def __init__(self, plan: EncodingPlan, device: str):
        self.plan = plan
        self.model = Loaded(plan.load_path, device, trust_remote_code=plan.trust_remote_code)
        settings = self.model.settings
        self.itc = dict(self.model.heads).get("itc")
        reader = _Reader(plan.inputs, self.model.image_source, self.model.tokenizer, settings.model.max_text_len)
        self.reader, self.dtype = reader, {"float16": torch.float16, "float32": torch.float32}[plan.store]

    def fill(self, rank: int = 0, processes: int = 1, *, shows: bool = True) -> None:
        """Makes what no other process makes, until nothing is missing.

        Args:
            rank, processes: as of `make_parts`. shows: whether a bar is drawn.
        """
        parts, workers = self.plan.parts(), self.plan.num_workers
        missing = [part for part in parts if part.is_missing()]
        bar = bar_of(parts, missing, shows=shows)
        loader = partial(StepLoader, collate=self.reader, num_workers=workers, pin_memory=False)
        with bar, torch.inference_mode(), float32_products("highest", cpu=self.model.device == "cpu"):
            make_parts(missing, loader, "output", self._write, bar, rank, processes)

    def _write(self, part: FeaturePart, file: AtomicFile, items: Iterator[Any], bar: Bar) -> None:
        """Writes a part, a row group for each pass; reads no item behind its last."""
        writer, left, skipped = None, part.size, Skipped()
        try:
            while left:
                item = next(items)
                for example in item[0]:
                    for fault in example.metadata["faults"].values():
                        skipped.add(fault.kind, f"{example.where}: {fault.why}")
                table = self._table(part.side, *item)
                if writer is None:
                    writer = pq.ParquetWriter(file, table.schema)
                writer.write_table(table)
                left -= len(item[0])
                bar.update(len(item[0]))
            writer.add_key_value_metadata({SKIPPED: json.dumps(skipped.as_dict())})
        finally:
            if writer is not None:  # else it closes itself later, when the file is closed
                writer.close()
        file.commit()

    def _table(
        self, side: str, examples: Sequence[Example], text: TextInput | None, image: ImageInput | None, owner: list[int]
    ) -> pa.Table:
        """The rows of a pass: one for each text, image, or pair of a text with one of its images."""
        text, image = move_data_to_device((text, image), self.model.device)
        rows = list(range(len(examples))) if side == TEXT else owner
        places = np.arange(len(rows)) - np.searchsorted(rows, rows)  # the rows of a sample are consecutive
        columns = {
            "id": pa.array([examples[row].id for row in rows], pa.int64()),
            "name": pa.array([examples[row].where for row in rows]),
            "image_key": pa.array([f"{examples[row].image_key:016x}" for row in rows]),
            "place": pa.array(places, pa.int32()),
        }
        if side != IMAGE:
            columns["text"] = pa.array([examples[row].text for row in rows])
        vectors = self._vectors(side, text, image, owner, places)
        kept = [place not in examples[row].metadata["faults"] for row, place in zip(rows, places, strict=True)]
        table = pa.table(columns | vectors).filter(pa.array(kept))
        half = "store=float16: a vector is too large for 16 bits, or not finite; give float32."
        whole = f"load_path={self.plan.load_path} gives a vector that is not finite; its weights are damaged."
        for name in vectors:  # of what is kept alone: what a black image gives is nobody's
            values = flat(table[name]).to_numpy(zero_copy_only=False)
            require(np.isfinite(values).all(), half if self.dtype == torch.float16 else whole)
        return table

    def _vectors(
        self, side: str, text: TextInput | None, image: ImageInput | None, owner: list[int], places: np.ndarray
    ) -> dict[str, pa.Array]:
        model = self.model.model
        if side == FUSED:
            index = torch.tensor(owner, device=self.model.device)
            slots = torch.from_numpy(places).to(self.model.device).clamp(max=1) if self.plan.inputs.slots else 0
            texts, pooled = model.embed_text(text), []
            for part, shown in self._passes(image):
                slot = slots[part] if isinstance(slots, Tensor) else slots
                fused = model.fuse(texts.select(index[part]), model.embed_image(shown), slot, needs={"pooled"})
                pooled.append(fused.pooled)
            return {"vector": self._stored(torch.cat(pooled))}
        columns: dict[str, list[pa.Array]] = {}
        for inputs in [text] if side == TEXT else [shown for _, shown in self._passes(image)]:
            tokens = model.unimodal_text(inputs) if side == TEXT else model.unimodal_image(inputs)
            columns.setdefault("vector", []).append(self._stored(pool(tokens, model.unimodal_pooling[side])))
            if self.itc is not None:
                vectors = self.itc.vectors(model.project(tokens, side), side)
                columns.setdefault("contrastive", []).append(self._stored(vectors))
            if self.plan.tokens:
                columns.setdefault("tokens", []).append(self._listed(tokens))
        return {name: pa.concat_arrays(arrays) for name, arrays in columns.items()}

    def _passes(self, image: ImageInput) -> Iterator[tuple[slice, ImageInput]]:
        """The images, `batch_size` at a time: a sample may have very many boxes."""
        for first in range(0, len(image.pixels), self.plan.batch_size):
            part = slice(first, first + self.plan.batch_size)
            yield part, ImageInput(image.pixels[part], None if image.sizes is None else image.sizes[part])

    def _stored(self, vectors: Tensor) -> pa.Array:
        vectors = vectors.to(self.dtype).cpu()
        return pa.FixedSizeListArray.from_arrays(pa.array(vectors.flatten().numpy()), vectors.shape[-1])

    def _listed(self, tokens: Tokens) -> pa.Array:
        """The real tokens of each row, a list of vectors."""
        mask = tokens.hidden.new_ones(tokens.hidden.shape[:2]).bool() if tokens.mask is None else tokens.mask
        ends = np.cumsum([0, *mask.sum(1).tolist()])
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), self._stored(tokens.hidden[mask]))


def bar_of(parts: Sequence[FeaturePart], missing: Sequence[FeaturePart], *, shows: bool = True) -> Bar:
    """A bar of all rows, those that are there counted."""
    total, left = (sum(part.size for part in each) for each in (parts, missing))
    return Bar(total=total, initial=total - left, desc="encoding", unit=" rows", disable=not shows)
