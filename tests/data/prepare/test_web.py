"""GCC and SBU from every layout that people have them in, the tar shards of img2dataset foremost."""

from __future__ import annotations

import functools
import json
import shutil
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.prepare import raw_gcc, raw_sbu
from data.prepare.raw_files import bad_pictures, odd_pictures, photograph, read_rows
from data.prepare.raw_gcc import Sample
from renaissance.core.errors import UserError
from renaissance.data.dataset_specs import METADATA_KEY
from renaissance.data.datasets import open_pairs
from renaissance.data.prepare import tars, web

make_arrow, make_sbu = web.make_arrow, functools.partial(web.make_arrow, dataset="sbu")
ODD, BAD = odd_pictures(), {name: content for name, (content, _) in bad_pictures().items()}
SAMPLES = [
    *(Sample(content, f" {name}\nä ") for name, content in (ODD | BAD).items()),
    Sample(photograph(), ""),
    Sample(photograph(1), "the same twice"),
    Sample(photograph(1), "the same twice"),
]
KEPT = [sample for sample in SAMPLES if sample.caption and sample.picture not in BAD.values()]
LAYOUTS: dict[str, Callable] = {
    "list": raw_gcc.write_list,
    "tars": raw_gcc.write_tars,
    "tars without parquet": functools.partial(raw_gcc.write_tars, parquet=False),
    "folders": raw_gcc.write_folders,
    "csv": functools.partial(raw_gcc.write_table, suffix="csv"),
    "parquet": functools.partial(raw_gcc.write_table, suffix="parquet"),
}
IDS = {  # of SAMPLES[1]
    "list": "images_train/0000/0000001",
    "tars": "00000/000000001",
    "tars without parquet": "00000/000000001",
    "folders": "00000/000000001.jpg",
    "csv": "images/1.jpg",
    "parquet": "images/1.jpg",
}


@pytest.fixture(autouse=True)
def short_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Files of five rows, in place of 100,000."""
    monkeypatch.setattr(web, "SHARD_ROWS", 5)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def rows_of(folder: Path, template: str) -> list[dict]:
    files = [folder / template.format(number) for number in range(len(list(folder.glob(template.format("*")))))]
    shards = [read_rows(file) for file in files]
    assert [len(shard) for shard in shards[:-1]] == [5] * (len(shards) - 1)
    return [row for shard in shards for row in shard]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_rows(root: Path, tmp_path: Path, layout: str):
    LAYOUTS[layout](root, SAMPLES)
    for workers in (1, 2):
        manifests = make_arrow(root, tmp_path / str(workers), workers=workers)
    rows = rows_of(tmp_path / "1", "conceptual_caption_train_{}.arrow")
    assert [(row["image"], row["caption"]) for row in rows] == [(each.picture, [each.caption]) for each in KEPT]
    assert {row["split"] for row in rows} == {"train"}
    assert rows[1]["image_id"] == IDS[layout]
    assert len({row["image_id"] for row in rows}) == len(rows)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    counts = dict.fromkeys(("missing", "unreadable", "too large"), 0)
    for manifest in manifests:
        for kind in counts:
            counts[kind] += manifest["skipped"].get(kind, {"count": 0})["count"]
        assert manifest["listed"] >= manifest["rows"]
        assert manifest["options"]["max_unreadable"] is None
    assert counts == {"missing": layout != "tars without parquet", "unreadable": 5, "too large": 1}
    assert sum(manifest["skipped"].get("empty caption", {"count": 0})["count"] for manifest in manifests) == 1
    metadata = pa.ipc.open_file(str(tmp_path / "1" / "conceptual_caption_train_0.arrow")).schema.metadata
    assert json.loads(metadata[METADATA_KEY]) == {"dataset": "gcc", "split": "train"}
    data = open_pairs(["gcc"], "train", tmp_path / "1")
    assert len(data) == len(KEPT)
    assert data[0].text == f"{next(iter(ODD))} ä"


def test_validation_has_files_of_its_own(root: Path, tmp_path: Path):
    raw_gcc.write_list(root, SAMPLES)
    raw_gcc.write_list(root, SAMPLES[:3], "val", "val_annot.json")
    make_arrow(root, tmp_path / "lists", workers=1)
    raw_gcc.write_tars(tmp_path / "tars" / "train", SAMPLES)
    raw_gcc.write_folders(tmp_path / "tars" / "val", SAMPLES[:3])
    make_arrow(tmp_path / "tars", tmp_path / "out", workers=1)
    for folder, name in (("lists", "images_val/0000/0000001"), ("out", "val/00000/000000001.jpg")):
        rows = rows_of(tmp_path / folder, "conceptual_caption_val_{}.arrow")
        assert [(row["image"], row["split"]) for row in rows] == [(each.picture, "val") for each in SAMPLES[:3]]
        assert rows[1]["image_id"] == name
        assert len(rows_of(tmp_path / folder, "conceptual_caption_train_{}.arrow")) == len(KEPT)


@pytest.mark.parametrize("place", [".", "train"])
def test_sbu(root: Path, tmp_path: Path, place: str):
    if place == ".":
        raw_sbu.write(root, SAMPLES)
    else:
        raw_gcc.write_tars(root / place, SAMPLES)
    make_sbu(root, tmp_path, workers=2)
    rows = rows_of(tmp_path, "sbu_{}.arrow")
    assert [(row["image"], row["caption"]) for row in rows] == [(each.picture, [each.caption]) for each in KEPT]


def test_paths_of_a_list_may_start_in_the_folder_of_pictures_and_come_twice(root: Path, tmp_path: Path):
    raw_gcc.write_list(root, SAMPLES[:6])
    entries = [["gone", "missing"], ["0000/0000001", "a"], ["0000/0000003", "b"], ["0000//0000001", "c"]]
    (root / "train_annot.json").write_text(json.dumps(entries))
    make_arrow(root, tmp_path, workers=1)
    rows = read_rows(tmp_path / "conceptual_caption_train_0.arrow")
    assert [(row["image"], row["image_id"], row["caption"]) for row in rows] == [
        (SAMPLES[1].picture, "0000/0000001", ["a", "c"]),
        (SAMPLES[3].picture, "0000/0000003", ["b"]),
    ]


@pytest.mark.parametrize("layout", ["tars", "list"])
def test_an_ended_run_goes_on_after_its_last_whole_shard(
    root: Path, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
):
    LAYOUTS[layout](root, SAMPLES)
    make_arrow(root, tmp_path / "whole", workers=1)
    shutil.copytree(tmp_path / "whole", tmp_path / "out")
    (tmp_path / "out" / "conceptual_caption_train_1.arrow").unlink()
    first = (tmp_path / "out" / "conceptual_caption_train_0.arrow").stat()
    read = []
    monkeypatch.setattr(
        tars, "_read", lambda file, member, was=tars._read: read.append(Path(member.name).stem) or was(file, member)
    )
    make_arrow(root, tmp_path / "out", workers=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert (tmp_path / "out" / "conceptual_caption_train_0.arrow").stat().st_ino == first.st_ino
    keys = [key for shard, part in raw_gcc.shards_of(SAMPLES) for key, _ in part]
    assert set(read).isdisjoint(keys[:5]) and (layout == "list" or keys[5] in read)
    raw_gcc.write_list(root, SAMPLES[1:]) if layout == "list" else raw_gcc.write_tars(root, SAMPLES[1:])
    make_arrow(root, tmp_path / "out", workers=1)  # another listing: nothing is kept
    assert rows_of(tmp_path / "out", "conceptual_caption_train_{}.arrow")[0]["image"] == SAMPLES[1].picture


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd" if kind == tarfile.SYMTYPE else "0.jpg"
    return member


def test_what_else_a_tar_can_hold(root: Path, tmp_path: Path):
    files = [
        *raw_gcc.files_of("0", Sample(photograph(0), "of the text file"), "json txt jpg"),
        ("1.png", ODD["alpha.png"]),
        ("1.json", json.dumps({"caption": "of the json file"}).encode()),
        *raw_gcc.files_of("2", Sample(None, "no image")),
        ("a/3.JPG", photograph(3)),
        ("./a//3.txt", "in a folder".encode("utf-8-sig")),
        ("4.jpg", photograph(4)),
        ("5.jpg", photograph(5)),
        ("5.json", b'{"caption": 5}'),
        ("6.jpg", photograph(6)),
        ("6.txt", "Hündchen".encode("latin-1")),
        ("7.jpg", photograph(7)),
    ]
    folder = tarfile.TarInfo("a")
    folder.type = tarfile.DIRTYPE
    links = [link("7.txt", tarfile.SYMTYPE), folder, link("8.jpg", tarfile.LNKTYPE), link("9", tarfile.FIFOTYPE)]
    raw_gcc.write_tar(root / "x.tar", files, links)
    (manifest,) = make_sbu(root, tmp_path, workers=1)
    assert [(row["image_id"], row["caption"], row["image"]) for row in read_rows(tmp_path / "sbu_0.arrow")] == [
        ("x/0", ["of the text file"], photograph(0)),
        ("x/1", ["of the json file"], ODD["alpha.png"]),
        ("x/a/3", ["in a folder"], photograph(3)),
    ]
    assert {kind: skipped["first"] for kind, skipped in manifest["skipped"].items()} == {
        "missing": ["x/2: no image in the tar"],
        "image without a caption": ["x/4", "x/5"],
        "caption that is not Unicode text": ["x/6"],
        "link or sparse file in a tar": ["x/7", "x/8", "x/9"],
    }


def test_a_long_tar_is_not_held_in_memory(tmp_path: Path):
    files = [(f"{number:09d}.{suffix}", b"...") for number in range(4000) for suffix in ("jpg", "txt")]
    raw_gcc.write_tar(tmp_path / "00000.tar", files)
    tracemalloc.start()
    entries = tars.tar_entries(tmp_path / "00000.tar", "", "train")
    assert [next(entries)().values["caption"] for _ in range(4000)] == [["..."]] * 4000
    held = tracemalloc.take_snapshot()  # while the tar is open; of tarfile alone, as other threads allocate too
    tracemalloc.stop()
    members = held.filter_traces([tracemalloc.Filter(True, tarfile.__file__)])
    assert sum(trace.size for trace in members.traces) < 1e5  # all members take 3.5 MB


def test_refuses_tars(root: Path, tmp_path: Path):
    raw_gcc.write_tars(root, SAMPLES)
    whole = (root / "00001.tar").read_bytes()
    lines = [f"{number}.{suffix}" for suffix in ("jpg", "txt") for number in range(2)]
    apart, out_of_it = tmp_path / "apart.tar", tmp_path / "out.tar"
    raw_gcc.write_tar(apart, [(name, b"...") for name in lines])
    raw_gcc.write_tar(out_of_it, [("../../1.jpg", photograph()), ("../../1.txt", b"a")])
    short = tarfile.TarInfo("0.jpg")
    short.size = 5000  # of which there are less
    header = whole.index(b"000010001.") // 512 * 512  # of the second key
    damaged = whole[:header] + b"?" * 512 + whole[header + 512 :]
    for content, sentence in [
        (whole[: len(whole) // 2], "is cut short or is not a tar file"),
        (b"", "is cut short or is not a tar file"),
        (b"<html>" + bytes(2000), "is damaged"),
        (damaged, f"is damaged (no header of a file at byte {header})"),
        (whole + whole, "is damaged (no header of a file at byte"),
        (short.tobuf() + bytes(2048), "is damaged (unexpected end of data)"),
        (apart.read_bytes(), "has the files of '0' at two places"),
        (out_of_it.read_bytes(), "leads out of root"),
    ]:
        (root / "00001.tar").write_bytes(content)
        with pytest.raises(UserError) as refusal:
            make_arrow(root, tmp_path / "out", workers=1)
        assert sentence in str(refusal.value)
        left = {path.name for path in (tmp_path / "out").glob("*")}
        assert left <= {"conceptual_caption_train_0.arrow", "conceptual_caption_train_0.json"}  # of the tar before


def test_refuses_listings(root: Path, tmp_path: Path):
    def refusal(make=make_arrow, **options) -> str:
        with pytest.raises(UserError) as error:
            make(root, tmp_path / "out", workers=1, **options)
        assert not (tmp_path / "out").exists()
        return str(error.value)

    assert "has none of *annot.json, *.tar, *.parquet with folders" in refusal()
    assert "max_unreadable=2 is not allowed" in refusal(max_unreadable=2)
    for text, sentence in [
        ('[["a", "b"]', "is cut short or is not JSON"),
        ('[["a", "b"], ["a", null]]', "entry 1 is not [path, caption]"),
        ('[["../a", "b"]]', "leads out of root"),
        ("[]", "holds no entry at 'item'"),
    ]:
        (root / "train_annot.json").write_text(text)
        assert sentence in refusal()
    raw_gcc.write_table(root, SAMPLES, "csv")
    assert "has several layouts of train: train_annot.json; table captions.csv; leave one" in refusal()
    (root / "train_annot.json").unlink()
    (root / "captions.csv").write_text("path,caption,split\na.jpg,b,val\n")
    assert "line 2 is of split 'val'; expected train alone" in refusal()
    (root / "captions.csv").write_text("path,caption\n")
    assert "has no captions" in refusal()
    (root / "captions.csv").write_text("url,caption\nhttps://example.org,b\n")  # what a download starts from
    raw_gcc.write_folders(root, SAMPLES)
    raw_gcc.write_tars(root / "train", SAMPLES)
    assert "several layouts of train: folders beside *.parquet; tar shards train/*.tar; leave one" in refusal()
    shutil.rmtree(root / "train")
    table = pq.read_table(root / "00001.parquet")
    for changed, sentence in [
        (pa.concat_tables([table, table[:1]]), "lists '00001/000010000.jpg' twice"),
        (table.drop_columns("caption"), "lacks the columns key and caption"),
    ]:
        pq.write_table(changed, root / "00001.parquet")
        assert sentence in refusal()
    (root / "00001.parquet").rename(root / "one")
    assert f"'{root}' has 00001 without the folder or the parquet file that img2dataset" in refusal()
    (root / "one").rename(root / "00009.parquet")
    assert "has 00001, 00009.parquet without" in refusal()
    (root / "00009.parquet").unlink()
    (root / "00001.parquet").write_bytes(b"PAR1 cut PAR1")
    assert "'" + str(root / "00001.parquet") + "' cannot be read, or is cut short" in refusal()
