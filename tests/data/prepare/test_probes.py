"""Benchmarks of probes: their official files in, one shape of row out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import small_probes
from data.prepare.raw_files import refused
from renaissance.data.collate import crop
from renaissance.data.dataset_specs import DATASETS, PROBES, WRITERS
from renaissance.data.datasets import open_samples, splits_of
from renaissance.data.images import decode


def make_arrow(name: str) -> Callable:
    return partial(WRITERS[DATASETS[name].writer], dataset=name)


def refusal(name: str, root: Path, **options: Any) -> str:
    return refused(make_arrow(name), root, **options)


def shown(sample: Any) -> tuple[tuple[int, ...], ...]:
    """The one colour of each image of a sample, of what its box shows."""
    images = [decode(image, sample.where) for image in sample.images]
    if boxes := sample.values.get("bboxes"):
        images = [crop(image, box) for image, box in zip(images, boxes, strict=True)]
    colours = [np.unique(image.reshape(3, -1).numpy(), axis=1) for image in images]
    assert all(each.shape[1] == 1 for each in colours), "an image shows something beside what it is about"
    return tuple(tuple(each[:, 0].tolist()) for each in colours)


@pytest.mark.parametrize("name", small_probes.NAMES)
def test_a_benchmark_is_read_back_as_its_files_say(name: str, tmp_path: Path):
    expected = small_probes.write(name, tmp_path / "raw")
    contents = []
    for workers in (1, 2):
        manifests = make_arrow(name)(tmp_path / "raw", tmp_path / "arrow", workers=workers)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / "arrow").iterdir()})
    assert contents[0] == contents[1]
    assert [manifest["rows"] for manifest in manifests] == [len(rows) for rows in expected.values()]
    assert [manifest["texts"] for manifest in manifests] == [
        sum(len(row.texts) for row in rows) for rows in expected.values()
    ]
    assert splits_of(name, tmp_path / "arrow", sample_kind=PROBES) == tuple(expected)
    for split, rows in expected.items():
        samples = open_samples(name, split, tmp_path / "arrow", sample_kind=PROBES)
        assert len(samples) == len(rows)
        for sample, row in zip(map(samples.__getitem__, range(len(rows))), rows, strict=True):
            values = sample.values
            assert (values["id"], values["texts"], values["correct"]) == (row.id, row.texts, row.correct)
            assert (values["category"] or None, values["group"] or None) == (row.category, row.group)
            assert values.get("bboxes") == (None if row.box is None else [list(row.box)])
            assert shown(sample) == row.colours
