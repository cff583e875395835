"""Visual Genome: regions stay with their phrases, and 5.4 million of them fit a small machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data.prepare import raw_vg
from data.prepare.raw_files import bad_pictures, odd_pictures, photograph, read_rows
from renaissance.core.errors import UserError
from renaissance.data.datasets import open_pairs
from renaissance.data.prepare.vg import make_arrow

COLUMNS = ["image", "caption", "width", "height", "x", "y", "image_id"]
# What is left of `raw_vg.REGIONS`: the phrase of blanks goes, and its box with it.
ROW = {
    "caption": ["a dog", "a dog", " die Tür\nist grün ", "the last"],
    "width": [30, 500, 0, 64],
    "height": [40, 600, 1, 32],
    "x": [1, -7, 127, 10],
    "y": [2, -3, 95, 20],
}


def test_every_readable_picture_has_its_phrases_and_boxes_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    odd, bad = list(odd_pictures().values()), [content for content, _ in bad_pictures().values()]
    pictures = dict(enumerate([photograph(), *odd, *bad, photograph(1)]))
    raw_vg.write(tmp_path, pictures, regions=raw_vg.regions_of(0, [("  ", 1, 2, 3, 4)]))
    for workers in (1, 2):
        (manifest,) = make_arrow(tmp_path, tmp_path / str(workers), workers=workers, max_unreadable=0.5)
    rows = read_rows(tmp_path / "1" / "vg.arrow")
    kept = [*range(1, len(odd) + 1), len(pictures) - 1]
    assert rows == [{"image": pictures[number], "image_id": str(number), **ROW} for number in kept]
    assert list(rows[0]) == COLUMNS
    assert {kind: skipped["count"] for kind, skipped in manifest["skipped"].items()} == {
        "empty caption": len(pictures),
        "image without a caption": 1,
        "missing": 1,
        "unreadable": 5,
        "too large": 1,
    }
    assert (manifest["listed"], manifest["expected"]["rows"]) == (len(pictures), 108_077)
    for name in ("vg.arrow", "vg.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    data = open_pairs(["vg"], "train", tmp_path / "1")
    assert [data[number].text for number in range(3)] == ["a dog", "die Tür ist grün", "the last"]


def test_boxes_follow_a_picture_that_is_made_smaller(tmp_path: Path):
    raw_vg.write(tmp_path, {1: photograph()})  # 128 x 96
    make_arrow(tmp_path, tmp_path, resize=48, workers=1)
    (row,) = read_rows(tmp_path / "vg.arrow")
    assert {name: row[name] for name in ("width", "height", "x", "y")} == {
        **{"width": [15, 250, 0, 32], "height": [20, 300, 0, 16]},
        **{"x": [0, -4, 64, 5], "y": [1, -2, 48, 10]},
    }


BAD_REGION = {"region_id": 1, "image_id": 1, "phrase": "a", "x": 1, "y": 1, "width": 1, "height": 1}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"id": 2}, "lists 'images/VG_100K/2.jpg' twice"),
        ({"id": "../1"}, "entry 0['id'] is '../1', but has to be a whole number"),
        ({"regions": None}, "entry 0['regions'] is None, but has to be a list"),
        ({"regions": [BAD_REGION | {"phrase": None}]}, "entry 0['regions'][0]['phrase'] is None"),
        ({"regions": [BAD_REGION | {"x": 1.5}]}, "entry 0['regions'][0]['x'] is 1.5"),
        ({"regions": [BAD_REGION | {"width": 2**80}]}, "is not JSON (parse error: integer overflow)"),
        (None, "is cut short or is not JSON"),
    ],
)
def test_refuses_annotations(tmp_path: Path, changes: dict | None, sentence: str):
    raw_vg.write(tmp_path, {1: photograph(), 2: photograph()}, **changes or {})
    if changes is None:
        file = tmp_path / "annotations" / "region_descriptions.json"
        file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(UserError) as refusal:
        make_arrow(tmp_path, tmp_path / "arrow")
    assert sentence in str(refusal.value)
    assert not (tmp_path / "arrow").exists()


def test_the_command_line(tmp_path: Path, run_cli):
    raw_vg.write(tmp_path / "raw", {number: photograph(number) for number in range(3)})
    done = run_cli("prepare", "with", "dataset=vg", "root=raw", "data_root=arrow", "workers=2", "resize=64")
    assert done.code == 0, done.stderr
    assert "vg.arrow: 3 images, 12 texts, 0." in done.stdout
    assert "vg.arrow holds 3 rows where the official download has 108,077" in done.stdout
    manifest = json.loads((tmp_path / "arrow" / "vg.json").read_text())
    assert manifest["options"] == {"max_unreadable": 0.01, "resize": 64, "quality": 95}
    assert [row["image_id"] for row in read_rows(tmp_path / "arrow" / "vg.arrow")] == ["0", "1", "2"]
    done = run_cli("prepare", "with", "dataset=vg", "root=nowhere", "data_root=arrow")
    assert (done.code, done.stderr.count("\n"), "Traceback" in done.stderr) == (1, 1, False)


PROGRAM = """
import sys
from pathlib import Path
from renaissance.data.prepare.vg import make_arrow
(manifest,) = make_arrow(sys.argv[1], sys.argv[2], workers=int(sys.argv[3]))
print(manifest["rows"], manifest["texts"], Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vg")
    raw_vg.write_large(root, photograph(), pictures=27_000, regions=50)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_memory_stays_small_on_1_350_000_regions(large: Path, tmp_path: Path, workers: int):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(large), str(tmp_path), str(workers)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    rows, texts, peak = map(int, done.stdout.split())  # the peak in KiB
    assert (rows, texts) == (27_000, 1_350_000)
    assert 50 << 10 < peak < 600 << 10
