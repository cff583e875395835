"""Conceptual Captions in miniature: the lists of the first downloads, and all that img2dataset leaves."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data.prepare.raw_files import write_pictures

PER_SHARD = 4


class Sample(NamedTuple):
    """An image of the web (None = its download failed) with its caption."""

    picture: bytes | None
    caption: str


def write_list(root: Path, samples: Sequence[Sample], split: str = "train", name: str = "train_annot.json") -> None:
    """A list of [path, caption]; names have no extension."""
    entries = []
    for number, sample in enumerate(samples):
        folder = f"images_{split}/{number // PER_SHARD:04d}"
        write_pictures(root / folder, {f"{number:07d}": sample.picture})
        entries.append([f"{folder}/{number:07d}", sample.caption])
    (root / name).write_text(json.dumps(entries))


def write_table(place: Path, samples: Sequence[Sample], suffix: str) -> None:
    """A table of path and caption beside the images."""
    write_pictures(place / "images", {f"{number}.jpg": sample.picture for number, sample in enumerate(samples)})
    rows = [{"path": f"images/{number}.jpg", "caption": sample.caption} for number, sample in enumerate(samples)]
    if suffix == "csv":
        with open(place / "captions.csv", "w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, ["path", "caption"])
            table.writeheader()
            table.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), place / "captions.parquet")


def shards_of(samples: Sequence[Sample]) -> Iterable[tuple[str, list[tuple[str, Sample]]]]:
    """(name of a shard, [(key, sample)]), as img2dataset numbers them."""
    for shard in range(0, -(-len(samples) // PER_SHARD)):
        part = samples[shard * PER_SHARD : (shard + 1) * PER_SHARD]
        yield f"{shard:05d}", [(f"{shard:05d}{number:04d}", sample) for number, sample in enumerate(part)]


def about(key: str, sample: Sample) -> dict:
    """What img2dataset writes of a sample into json and parquet."""
    failed = sample.picture is None
    status, error = ("failed_to_download", "HTTP Error 404: Not Found") if failed else ("success", None)
    return {
        **{"url": f"https://example.org/{key}", "caption": sample.caption, "key": key, "status": status},
        **{"error_message": error, "width": 128, "height": 96, "sha256": "0" * 64},
    }


def write_parquet(place: Path, shard: str, part: list[tuple[str, Sample]]) -> None:
    pq.write_table(pa.Table.from_pylist([about(key, sample) for key, sample in part]), place / f"{shard}.parquet")
    (place / f"{shard}_stats.json").write_text(json.dumps({"count": len(part)}))


def files_of(key: str, sample: Sample, order: str = "jpg txt json") -> list[tuple[str, bytes]]:
    contents = {
        "jpg": sample.picture,
        "txt": sample.caption.encode(),
        "json": json.dumps(about(key, sample)).encode(),
    }
    return [(f"{key}.{suffix}", contents[suffix]) for suffix in order.split() if contents[suffix] is not None]


def write_tar(path: Path, files: Iterable[tuple[str, bytes]], extra: Sequence[tarfile.TarInfo] = ()) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in extra:
            tar.addfile(member)


def write_tars(place: Path, samples: Sequence[Sample], parquet: bool = True) -> None:
    """output_format=webdataset: failed downloads are in the parquet files alone."""
    place.mkdir(parents=True, exist_ok=True)
    orders = ("jpg txt json", "json jpg txt", "txt json jpg", "jpg json")
    for shard, part in shards_of(samples):
        present = [(key, sample) for key, sample in part if sample.picture is not None]
        files = [each for n, (key, sample) in enumerate(present) for each in files_of(key, sample, orders[n % 4])]
        write_tar(place / f"{shard}.tar", files)
        if parquet:
            write_parquet(place, shard, part)


def write_folders(place: Path, samples: Sequence[Sample]) -> None:
    """output_format=files."""
    for shard, part in shards_of(samples):
        (place / shard).mkdir(parents=True)
        for key, sample in part:
            if sample.picture is not None:
                write_pictures(place / shard, dict(files_of(key, sample)))
        write_parquet(place, shard, part)
