"""Data sets in many files: where they are cut, what an ended run leaves, and how the next one goes on."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from data.prepare.raw_files import photograph, read_rows, write_pictures
from renaissance.core.errors import UserError
from renaissance.data.dataset_specs import CAPTION, IMAGE
from renaissance.data.prepare.arrow_file import Plan
from renaissance.data.prepare.entries import LeftOut, Row
from renaissance.data.prepare.skipped import Skipped
from renaissance.data.prepare.writer import Download, arrow_writer, schema_of

TEMPLATE = "web_{shard}.arrow"
ENTRIES, ROWS = 25, 6
MISSING, EMPTY = (0, 5, 6, 7, 12, 13, 24), (3, 8)  # rows: 1 2 4 9 10 11, then 14 to 19, then 20 to 23
CUTS = [(0, 14), (14, 20), (20, 25)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    present = {f"{number}.jpg": photograph(number) for number in range(ENTRIES) if number not in MISSING}
    write_pictures(tmp_path / "raw", present)
    return tmp_path / "raw"


def entry(number: int) -> Row | LeftOut:
    caption = LeftOut("empty caption", f"{number}.jpg")
    return caption if number in EMPTY else Row({"image": f"{number}.jpg"}, {"caption": [f"caption {number}"]})


def write(
    root: Path,
    out: Path,
    make: Callable[[int], Row | LeftOut] = entry,
    end: int = ENTRIES,
    listing: str = "list.json",
    shard_rows: int = ROWS,
    text: str = "caption",
    **options,
) -> list[dict]:
    skipped = Skipped()
    skipped.add("listed twice", "1.jpg")
    schema, rows = schema_of([IMAGE, CAPTION._replace(name=text)]), (partial(make, number) for number in range(end))
    plan = Plan(TEMPLATE, schema, rows, None, skipped, (text,), source={"listing": listing}, shard_rows=shard_rows)
    return arrow_writer(lambda _: Download("web", [plan], max_unreadable=None))(root, out, **({"workers": 1} | options))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_where_files_are_cut_and_what_they_say(root: Path, tmp_path: Path):
    manifests = write(root, tmp_path / "out")
    assert [(each["shard"]["first"], each["shard"]["next"]) for each in manifests] == CUTS
    for shard, (first, after) in enumerate(CUTS):
        expected = [number for number in range(first, after) if number not in MISSING + EMPTY]
        rows = read_rows(tmp_path / "out" / f"web_{shard}.arrow")
        assert [row["caption"] for row in rows] == [[f"caption {number}"] for number in expected]
        assert [row["image"] for row in rows] == [photograph(number) for number in expected]
        manifest = json.loads((tmp_path / "out" / f"web_{shard}.json").read_text())
        assert manifest == manifests[shard]
        assert (manifest["rows"], manifest["listed"], manifest["texts"]) == (
            len(expected),
            after - first,
            len(expected),
        )
        missing = sum(first <= number < after for number in MISSING)
        assert manifest["skipped"].get("missing", {"count": 0})["count"] == missing
        assert ("listed twice" in manifest["skipped"]) == (shard == 0)
        assert manifest["options"]["max_unreadable"] is None
    assert manifests[0]["skipped"]["empty caption"] == {"count": 2, "first": ["3.jpg", "8.jpg"]}


def test_files_are_the_same_for_any_number_of_workers(root: Path, tmp_path: Path):
    for workers in (1, 2, 3):
        write(root, tmp_path / str(workers), workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "3")


def test_an_ended_run_goes_on_after_its_last_whole_shard(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write(root, tmp_path / "whole")

    def cut_short(number: int) -> Row | LeftOut:
        if number == 22:
            raise UserError("the power went")
        return entry(number)

    with pytest.raises(UserError, match="the power went"):
        write(root, tmp_path / "out", cut_short)
    kept = [(path.name, path.stat().st_ino) for path in sorted((tmp_path / "out").iterdir())]
    assert [name for name, _ in kept] == ["web_0.arrow", "web_0.json", "web_1.arrow", "web_1.json"]
    for number in range(20):
        (root / f"{number}.jpg").unlink(missing_ok=True)  # they are not read again
    asked = []
    manifests = write(root, tmp_path / "out", lambda number: asked.append(number) or entry(number))
    assert asked == [20, 21, 22, 23, 24]
    assert "web_1.arrow is kept from an earlier run" in capsys.readouterr().out
    assert [(path.name, path.stat().st_ino) for path in sorted((tmp_path / "out").iterdir())][:4] == kept
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert manifests == [json.loads((tmp_path / "whole" / f"web_{shard}.json").read_text()) for shard in range(3)]


@pytest.mark.parametrize(
    "changes",
    [
        {"shard": None},
        {"shard": [0, 14]},
        {"shard": {"first": 0}},
        {"shard": {"first": 0, "next": "14"}},
        {"shard": {"first": 0, "next": -1}},
        {"shard": {"first": 0, "next": 2**80}},
        {"bytes": None},
        {"images": "4"},
        {"skipped": {"missing": 3}},
        {"note": ["a"]},
        {"options": float("nan")},
    ],
    ids=str,
)
def test_a_manifest_whose_values_are_of_another_type_is_not_believed(root: Path, tmp_path: Path, changes: dict):
    write(root, tmp_path / "out")
    whole = contents(tmp_path / "out")
    about = json.loads(whole["web_0.json"]) | changes
    (tmp_path / "out" / "web_0.json").write_text(json.dumps(about))
    write(root, tmp_path / "out")
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({}, 25),
        ({"resize": 40}, 0),
        ({"max_unreadable": 0.9}, 0),
        ({"shard_rows": 7}, 0),
        ({"listing": "other.json"}, 0),
        ({"text": "phrases"}, 0),
        ("cut web_0.arrow", 0),
        ("cut web_1.arrow", 14),
        ("cut web_1.json", 14),
        ("foreign web_1.json", 14),
        ("remove web_1.json", 14),
    ],
)
def test_what_does_not_fit_is_written_again(root: Path, tmp_path: Path, change: dict | str, asked: int):
    write(root, tmp_path)
    if isinstance(change, str):
        what, name = change.split()
        file = tmp_path / name
        if what == "remove":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:-5] if what == "cut" else b"[1]")
        change = {}
    seen = []

    def make(number: int) -> Row | LeftOut:
        seen.append(number)
        made = entry(number)
        return made._replace(values={"phrases": ["c"]}) if "text" in change and isinstance(made, Row) else made

    before = contents(tmp_path)
    write(root, tmp_path, make, **change)
    assert seen == list(range(asked, ENTRIES))
    if asked == 14:
        assert contents(tmp_path)["web_2.arrow"] == before["web_2.arrow"]


def test_shards_of_a_longer_run_are_set_aside(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write(root, tmp_path)
    old = (tmp_path / "web_2.arrow").read_bytes()
    (tmp_path / "web_10.arrow").write_bytes(b"of another program")
    (tmp_path / "web_mine.arrow").write_bytes(b"not a shard")
    write(root, tmp_path, end=16, listing="shorter.json")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        *("web_0.arrow", "web_0.json", "web_1.arrow", "web_1.json"),
        *("web_10.arrow.stale", "web_2.arrow.stale", "web_mine.arrow"),
    ]
    assert (tmp_path / "web_2.arrow.stale").read_bytes() == old
    assert "web_2.arrow is of an earlier, longer run and is set aside as web_2.arrow.stale" in capsys.readouterr().out


def test_too_many_unreadable_pictures_reject_their_shard_and_no_picture_at_all_the_first(root: Path, tmp_path: Path):
    with pytest.raises(UserError) as refusal:
        write(root, tmp_path, max_unreadable=0.2)
    assert "6 of 14 images for web_0.arrow" in str(refusal.value)  # of the others 0 of 6 and 1 of 5 are missing
    assert sorted(contents(tmp_path)) == [
        *("web_0.arrow.rejected", "web_0.arrow.rejected.json"),
        *("web_1.arrow", "web_1.json", "web_2.arrow", "web_2.json"),
    ]
    with pytest.raises(UserError, match="Nothing is left for web_0.arrow: .*missing: 1, first"):
        write(root, tmp_path / "none", end=1)


PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from data.prepare.test_shards import *
print("begun", flush=True)
write(Path({root!r}), Path({out!r}), workers={workers})
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_runs_killed_at_any_moment_leave_whole_files_and_the_last_one_ends_the_work(
    root: Path, tmp_path: Path, workers: int
):
    write(root, tmp_path / "whole")
    whole, out = contents(tmp_path / "whole"), tmp_path / "out"
    out.mkdir()
    (out / "web_1.arrow").write_bytes(b"an old file")
    code = PROGRAM.format(path=sys.path, root=str(root), out=str(out), workers=workers)
    moments = random.Random(workers)
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout.readline() == b"begun\n"
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.communicate()
        for name, content in contents(out).items():
            assert name.startswith(".") or content == whole[name] or content == b"an old file"
    manifests = write(root, out, workers=workers)
    assert contents(out) == whole
    assert len(manifests) == 3
    assert pa.ipc.open_file(str(out / "web_2.arrow")).num_record_batches == 1
    assert not [name for name in os.listdir(out) if name.startswith(".")]
