"""Run folders made by hand: what a pretraining leaves, with data, texts and pictures as a test wants them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

import small_run
from renaissance.data.datasets import open_pairs
from renaissance.evaluation.frames import write_predictions
from renaissance.runs.report import RunFolder


def noise(number: int, side: int = 24) -> bytes:
    """A PNG that no coding makes small, no two alike."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (side, side + 8, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def write_data(folder: Path, captions: Sequence[str], pictures: Sequence[bytes]) -> None:
    """The val split of coco: a caption and a picture a row."""
    rows = [
        {"image": picture, "caption": [caption], "image_id": f"<{number}>"}
        for number, (caption, picture) in enumerate(zip(captions, pictures, strict=True))
    ]
    table = pa.Table.from_pylist(rows, small_run.CAPTION_SCHEMA)
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        path = str(folder / small_run.COCO.format(split))
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)


def itm_frame(count: int, seed: int = 0) -> pd.DataFrame:
    """Predictions of image-text matching: half of the texts with the next picture, a fifth of all answers wrong."""
    draw, positions = np.random.default_rng(seed), np.arange(count)
    false, wrong = positions % 2 == 1, draw.random(count) < 0.2
    said = np.where(false ^ wrong, "mismatched", "matched")
    return pd.DataFrame(
        {
            "id": positions,
            "prediction": said,
            "target": np.where(false, "mismatched", "matched"),
            "score": (~wrong).astype(float),
            "position": positions,
            "confidence": np.where(wrong, 0.55, 0.65) + draw.random(count) * 0.3,
            "shown_position": np.where(false, (positions + 1) % count, positions),
        }
    )


def make_run(
    log_dir: Path, data: Path, frame: pd.DataFrame | None = None, rows: Sequence[str] = (), **settings: Any
) -> Path:
    """A run of ITM on coco, evaluated on val where there are predictions; returns its folder.

    Args:
        rows: lines of metrics.csv, its header first. settings: that differ from the defaults.
    """
    name = settings.pop("exp_name", "made")
    given = {"loss_names": {"itm": 1}, "datasets": ["coco"], "data_root": str(data), "batch_size": 8} | settings
    resolved = small_run.resolver(log_dir=str(log_dir), exp_name=name, **given)
    resolved.name_towers()
    folder = RunFolder.create(str(log_dir), name)
    pairs = open_pairs(["coco"], "val", data)
    record = {
        "settings": resolved.values,
        "sources": resolved.sources,
        "parameters": {"all": {"total": 1200000, "trainable": 1200000, "frozen": 0}},
        "versions": {"python": "3.11"},
        "data": {"val": pairs.fingerprint()},
    }
    folder.write_json("settings.json", record)
    if rows:
        folder.write("metrics.csv", ("\n".join(rows) + "\n").encode())
    if frame is not None:
        write_predictions(folder, "itm", "val", frame)
        folder.write_json("results.json", {"val": {"itm": {"loss": 0.5, "accuracy": frame["score"].mean()}}})
        folder.write_json("results_details.json", {})
    return folder.path
