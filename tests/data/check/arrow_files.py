"""Small arrow files of every data set, as FORMATS lays them out, made with pyarrow alone: nothing of the writers is used."""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

ROWS = 5  # of each file
Columns = dict[str, list[Any]]


@functools.cache
def picture(*seed: int) -> bytes:
    """A JPEG that no other seed has."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((36, 24)).save(file, "JPEG")
    return file.getvalue()


def _captions(seed: int, names: Callable[[int], str] = lambda number: f"{number}.jpg") -> Columns:
    return {
        "image": [picture(seed, row) for row in range(ROWS)],
        "caption": [[f"a dog, number {row}", "Ein Hund läuft\nüber 草地"] for row in range(ROWS)],
        "image_id": [names(100 * seed + row) for row in range(ROWS)],
        "split": ["train"] * ROWS,
    }


def _genome(seed: int) -> Columns:
    sides = {name: [[10, 20]] * ROWS for name in ("width", "height", "x", "y")}
    return {name: values for name, values in (_captions(seed) | sides).items() if name != "split"}


def _questions(seed: int, answered: bool = True) -> Columns:
    return {
        "image": [picture(seed, row) for row in range(ROWS)],
        "questions": [["Is it red?", "What colour is the dog?"]] * ROWS,
        "answers": [[["yes"], ["red", "brown"]] if answered else [] for _ in range(ROWS)],
        "answer_labels": [[[3], [7, 3128]] if answered else [] for _ in range(ROWS)],
        "answer_scores": [[[1.0], [0.6, 0.3]] if answered else [] for _ in range(ROWS)],
        "image_id": [100 * seed + row for row in range(ROWS)],
        "question_id": [[1000 * seed + 2 * row, 1000 * seed + 2 * row + 1] for row in range(ROWS)],
        "split": ["train"] * ROWS,
    }


def _pairs(seed: int) -> Columns:
    return {
        "image_0": [picture(seed, row, 0) for row in range(ROWS)],
        "image_1": [picture(seed, row, 1) for row in range(ROWS)],
        "questions": [["Both show a dog.", "One is red."]] * ROWS,
        "answers": [["True", "False"]] * ROWS,
        "identifier": [f"train-{seed}-{row}" for row in range(ROWS)],
        "identifiers": [[f"train-{seed}-{row}-0", f"train-{seed}-{row}-1"] for row in range(ROWS)],
    }


def _entailment(seed: int) -> Columns:
    return {
        "image": [picture(seed, row) for row in range(ROWS)],
        "sentences": [[["A dog runs.", "It moves."], ["A dog runs.", "It sleeps."]]] * ROWS,
        "labels": [[2, 0]] * ROWS,
        "image_id": [f"{100 * seed + row}.jpg" for row in range(ROWS)],
    }


def _boxes(seed: int) -> Columns:
    return {
        "image": [picture(seed, row // 2) for row in range(ROWS)],  # several references of one image
        "sentences": [["the left dog", "dog"]] * ROWS,
        "bboxes": [[[0.0, 0.0, 10.0, 10.0], [12.5, 3.0, 9.0, 8.0]]] * ROWS,
        "labels": [1] * ROWS,
        "image_id": [100 * seed + row // 2 for row in range(ROWS)],
        "ref_id": [100 * seed + row for row in range(ROWS)],
    }


def _classes(seed: int) -> Columns:
    names = [f"cat/{seed}-{row}.jpg" for row in range(ROWS)]
    rows = [picture(seed, row) for row in range(ROWS)]
    return {"image": rows, "label": [row % 2 for row in range(ROWS)], "image_id": names, "split": ["train"] * ROWS}


def _probes(seed: int, texts: int = 3) -> Columns:
    """Rows of a benchmark, of which two that follow each other have one image; of one text, not all are right."""
    return {
        "image": [picture(seed, row // 2) for row in range(ROWS)],
        "texts": [[f"a dog, number {row} {text}" for text in range(texts)] for row in range(ROWS)],
        "correct": [[[row % 2, *[0] * (texts - 1)] if texts == 1 else [1, *[0] * (texts - 1)]] for row in range(ROWS)],
        "id": [f"{seed}_{row}" for row in range(ROWS)],
        "category": ["left of", None, "on", "on", "left of"],
        "group": [None, "dog_cat", "dog_cat", "", None],
    }


def _paired_probes(seed: int) -> Columns:
    sides = {f"image_{side}": [picture(seed, row, side) for row in range(ROWS)] for side in (0, 1)}
    columns = {name: values for name, values in _probes(seed, 2).items() if name != "image"}
    return sides | columns | {"correct": [[[1, 0], [0, 1]]] * ROWS}


def _cut_probes(seed: int) -> Columns:
    return _probes(seed, 2) | {"bboxes": [[[4.0, 3.5, 9.0, 8.0]]] * ROWS}


def _coco(seed: int) -> Columns:
    columns, numbers = _captions(seed, lambda number: f"COCO_val2014_{number:012d}.jpg"), itertools.count(1000 * seed)
    return columns | {"caption_ids": [[next(numbers) for _ in texts] for texts in columns["caption"]]}


def _each(make: Callable[[int], Columns], seed: int, *names: str) -> dict[str, Columns]:
    return {name: make(seed + place) for place, name in enumerate(names)}


def _named(template: str, *splits: str) -> list[str]:
    return [template.format(split) for split in splits]


def files_of(dataset: str) -> dict[str, Columns]:
    """The files of a data set, file name -> columns; no image is in two of them, but for those that share on purpose."""
    if dataset == "coco":
        return _each(_coco, 10, *_named("coco_caption_karpathy_{}.arrow", "train", "restval", "val", "test"))
    if dataset == "f30k":
        return _each(_captions, 20, *_named("f30k_caption_karpathy_{}.arrow", "train", "val", "test"))
    if dataset == "vg":
        return _each(_genome, 30, "vg.arrow")
    if dataset == "gcc":
        return _each(_captions, 40, *_named("conceptual_caption_{}.arrow", "train_0", "train_1", "val_0"))
    if dataset == "sbu":
        return _each(_captions, 50, "sbu_0.arrow", "sbu_1.arrow")
    if dataset == "vqa":
        answered = _each(_questions, 60, *_named("vqav2_{}.arrow", "train", "trainable_val", "rest_val"))
        hidden = _each(lambda seed: _questions(seed, answered=False), 63, "vqav2_test.arrow", "vqav2_test-dev.arrow")
        val = {name: [*answered["vqav2_rest_val.arrow"][name], *answered["vqav2_trainable_val.arrow"][name]] for name in
               answered["vqav2_train.arrow"]}  # fmt: skip
        return answered | hidden | {"vqav2_val.arrow": val}
    if dataset == "nlvr2":
        splits = _each(_pairs, 70, *_named("nlvr2_{}.arrow", "train", "dev", "test1"))
        balanced = {f"nlvr2_{kind}_{split}.arrow": splits[f"nlvr2_{split}.arrow"]
                    for kind in ("balanced", "unbalanced") for split in ("dev", "test1")}  # fmt: skip
        return splits | balanced
    if dataset == "snli":
        return _each(_entailment, 80, *_named("snli_{}.arrow", "train", "dev", "test"))
    if dataset == "images":
        return _each(_classes, 130, *_named("images_{}.arrow", "train", "val", "test"))
    if dataset == "captions":
        return _each(_captions, 140, *_named("captions_{}.arrow", "train", "val", "test"))
    if dataset in ("vsr", "vsr_zeroshot"):
        names = _named(f"{dataset}_{{}}.arrow", "train", "val", "test")
        return {name: _probes(150, 1) for name in names}  # they share images
    if dataset.startswith(("winoground", "mmvp")):
        return _each(_paired_probes, 160, f"{dataset}.arrow")
    if dataset in ("aro_relation", "aro_attribution"):
        return _each(_cut_probes, 170, f"{dataset}.arrow")
    if dataset.startswith(("sugarcrepe", "valse", "aro_order", "whatsup")):
        return _each(_probes, 180, f"{dataset}.arrow")
    template, seed, splits = {
        "refcoco": ("refcoco_unc_{}.arrow", 90, ("train", "val", "testA", "testB")),
        "refcoco+": ("refcoco+_unc_{}.arrow", 100, ("train", "val", "testA", "testB")),
        "refcocog": ("refcocog_umd_{}.arrow", 110, ("train", "val", "test")),
        "refcocog_google": ("refcocog_google_{}.arrow", 120, ("train", "val")),
    }[dataset]
    return _each(_boxes, seed, *_named(template, *splits))


def write_columns(path: Path, columns: Columns, batch_rows: int = 2, metadata: dict[str, str] | None = None) -> None:
    """Writes a file in record batches of a few rows."""
    table = pa.table(columns).replace_schema_metadata(metadata)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)


def write(folder: Path, dataset: str) -> dict[str, Columns]:
    """Writes all files of a data set; returns their columns."""
    folder.mkdir(parents=True, exist_ok=True)
    files = files_of(dataset)
    for name, columns in files.items():
        write_columns(folder / name, columns)
    return files
