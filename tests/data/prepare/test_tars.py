"""Tar shards as people have them and as nobody should: splits in their names, odd members, headers that lie."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import time
from functools import partial
from pathlib import Path

import pytest

from data.prepare import raw_gcc
from data.prepare.raw_files import odd_pictures, photograph, read_rows, refused
from renaissance.data.prepare.web import make_arrow

make_sbu = partial(make_arrow, dataset="sbu")


def write(path: Path, first: int = 0, count: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [(f"{n:09d}.{suffix}", each) for n in range(first, first + count) for suffix, each in of(n).items()]
    raw_gcc.write_tar(path, files)


def of(number: int) -> dict[str, bytes]:
    return {"jpg": photograph(number), "txt": f"caption {number}".encode()}


def counts(folder: Path) -> dict[str, int]:
    return {file.stem: len(read_rows(file)) for file in sorted(folder.glob("*.arrow"))}


@pytest.mark.parametrize(
    ("names", "train", "val", "left"),
    [
        (["cc3m-train-0000", "cc3m-train-0001", "cc3m-validation-0000"], 4, 2, ""),
        (["00000", "00001", "dev-00000"], 4, 2, ""),
        (
            ["Train/00000", "Validation/00000", "test/00000"],
            2,
            2,
            "Left alone, as gcc has no such split: tar shards test/",
        ),
        (["cc-train-0", "cc-holdout-0"], "has files whose names say train, and beside them cc-holdout-0.tar", 0, ""),
        (["training_shards/val-00000"], "lies in a folder of train, but its name says val", 0, ""),
        (["cc_train_val_0"], "says train and val: it has to be of one split", 0, ""),
        (["train/0", "0"], "several layouts of train: tar shards *.tar; tar shards train/*.tar", 0, ""),
        (["test-0"], r"give the folder that has. Left alone, as gcc has no such split: tar shards \*.tar", 0, ""),
    ],
    ids=str,
)
def test_names_of_tars_and_folders_say_the_split(
    tmp_path: Path, names: list[str], train: int | str, val: int, left: str
):
    for place, name in enumerate(names):
        write(tmp_path / "raw" / f"{name}.tar", 2 * place)
    (tmp_path / "raw" / "._00000.tar").write_bytes(b"\0\5\x16\7")
    (tmp_path / "raw" / "__MACOSX").mkdir()
    if isinstance(train, str):
        assert train.replace("\\", "") in refused(make_arrow, tmp_path / "raw", workers=1)
        return
    manifests = make_arrow(tmp_path / "raw", tmp_path / "out", workers=1)
    assert counts(tmp_path / "out") == {"conceptual_caption_train_0": train, "conceptual_caption_val_0": val}
    assert left in manifests[0]["note"]
    assert manifests[0]["note"].startswith("Read from tar shards ")


def test_validation_of_a_data_set_that_has_none_is_left_alone_and_said(tmp_path: Path):
    write(tmp_path / "raw" / "sbu-train-0.tar")
    write(tmp_path / "raw" / "sbu-val-0.tar", 5)
    (manifest,) = make_sbu(tmp_path / "raw", tmp_path / "out", workers=1)
    assert counts(tmp_path / "out") == {"sbu_0": 2}
    assert manifest["note"] == (
        "Read from tar shards *.tar: sbu-train-0.tar. Left alone, as sbu has no such split: tar shards *.tar (val)."
    )


def test_lists_and_tables_say_the_split_too(tmp_path: Path):
    samples = [raw_gcc.Sample(photograph(n), f"a {n}") for n in range(4)]
    raw_gcc.write_list(tmp_path / "raw", samples[:1], "training", "Train_annot.json")
    raw_gcc.write_list(tmp_path / "raw", samples[1:3], "validation", "validation_annot.json")
    make_arrow(tmp_path / "raw", tmp_path / "out", workers=1)
    assert counts(tmp_path / "out") == {"conceptual_caption_train_0": 1, "conceptual_caption_val_0": 2}
    raw_gcc.write_table(tmp_path / "tables", samples, "csv")
    (tmp_path / "tables" / "captions.csv").rename(tmp_path / "tables" / "captions_dev.csv")
    make_arrow(tmp_path / "tables", tmp_path / "tables_out", workers=1)
    assert counts(tmp_path / "tables_out") == {"conceptual_caption_val_0": 4}


def test_keys_with_dots_other_pictures_and_what_systems_leave(tmp_path: Path):
    gif, seg = odd_pictures()["palette.png"], photograph(9)
    files = [
        *((f"v1.5_{n}.{suffix}", each) for n in range(2) for suffix, each in of(n).items()),
        *((f"0001.a.{suffix}", each) for suffix, each in {"jpg": photograph(2), "json": b'{"caption": "c"}'}.items()),
        ("0002.gif", gif),
        ("0002.txt", b"\xef\xbb\xbfd"),
        ("._0003.jpg", b"\0\5\x16\7"),
        ("0003.jpg", photograph(3)),
        ("0003.seg.png", seg),
        ("0003.txt", b"e"),
        ("__MACOSX/0003.jpg", b"..."),
        (".DS_Store", b"..."),
        ("a/Thumbs.db", b"..."),
        ("0004.heic", b"..."),
        ("0004.txt", b"f"),
        ("0005.a.jpg", photograph(5)),
        ("0005.a.txt", b"g"),
        ("0005.jpg", photograph(6)),
        ("0005.txt", b"h"),
        ("0006.jpg", photograph(7)),
        ("0006.json", b'{"caption": "i", "punsafe": NaN}'),
    ]
    (tmp_path / "raw").mkdir()
    raw_gcc.write_tar(tmp_path / "raw" / "x.tar", files)
    (manifest,) = make_sbu(tmp_path / "raw", tmp_path / "out", workers=1)
    assert [(row["image_id"], row["caption"]) for row in read_rows(tmp_path / "out" / "sbu_0.arrow")] == [
        ("x/v1.5_0", ["caption 0"]),
        ("x/v1.5_1", ["caption 1"]),
        ("x/0001.a", ["c"]),
        ("x/0002", ["d"]),
        ("x/0003", ["e"]),
        ("x/0005.a", ["g"]),
        ("x/0005", ["h"]),
        ("x/0006", ["i"]),
    ]
    assert manifest["skipped"] == {"image of a form that is not read": {"count": 1, "first": ["x/0004: .heic"]}}


def header(kind: bytes, size: int, name: str = "0.jpg", **pax: str) -> bytes:
    """One header, made by Python; a size out of range is written in base 256."""
    member = tarfile.TarInfo(name)
    member.type, member.size, member.pax_headers = kind, size, pax
    return member.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)


def extended(kind: bytes, text: bytes) -> bytes:
    return header(kind, len(text)) + text + bytes(-len(text) % 512)


def record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + len(str(len(rest)))
    return str(length + (len(str(length)) > len(str(len(rest))))).encode() + rest


def sparse_header(name: str, size: int) -> bytes:
    """GNU's own form, with a map that goes on in the next block."""
    start = header(tarfile.GNUTYPE_SPARSE, size, name)
    start = start[:148] + b" " * 8 + start[156:482] + b"\1" + start[483:]  # the check sum is taken of spaces
    return start[:148] + b"%06o\0 " % sum(start) + start[156:]


PICTURE = header(tarfile.REGTYPE, 5) + b"..." + bytes(509)
HOSTILE = {
    "digits": extended(b"x", b"1" * 60_000) + PICTURE,
    "digits in a record": extended(b"x", record(b"comment", b"1" * 60_000)) + PICTURE,
    "records that overlap": extended(b"x", b"2 " * 30_000 + b"=\n") + PICTURE,
    "a long comment": extended(b"x", record(b"comment", b"a" * 200_000)) + PICTURE,
    "a length of 5,000 digits": extended(b"x", b"1" * 5000 + b" a=b\n") + PICTURE,
    "comments for all": b"".join(extended(b"g", record(b"key%d" % n, b"a" * 9000)) + PICTURE for n in range(20)),
    "a chain": extended(b"x", record(b"a", b"b")) * 2000 + PICTURE,
    "a chain of names": extended(b"L", b"name\0") * 2000 + PICTURE,
    "a long name": header(b"L", 8 << 30) + PICTURE,
    "a size below zero": header(tarfile.REGTYPE, -1024) + PICTURE,
    "a pax size below zero": extended(b"x", record(b"size", b"-2048")) + PICTURE,
    "an extension below zero": header(b"x", -512) + PICTURE,
    "sparse without end": sparse_header("0.jpg", 5),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_headers_that_lie_end_in_a_sentence_at_once(tmp_path: Path, name: str):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "00000.tar").write_bytes(HOSTILE[name] + bytes(1024))
    started = time.monotonic()
    with pytest.raises(Exception) as error:
        make_sbu(tmp_path / "raw", tmp_path / "out", workers=1)
    assert type(error.value).__name__ == "UserError"
    assert "is damaged" in str(error.value) or "Nothing is left for sbu_0.arrow" in str(error.value)
    assert time.monotonic() - started < 2


def test_sparse_members_of_both_kinds_are_left_out_and_counted(tmp_path: Path):
    """What a tar holds of them is packed: a map, and the parts that are no holes."""
    packed, text = photograph(0).ljust(20_480, b"."), header(tarfile.REGTYPE, 512, "1.txt") + b"a" * 512
    pax = extended(b"x", record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.name", b"1.jpg"))
    members = sparse_header("0.jpg", len(packed)), bytes(504) + b"\1" + bytes(7), bytes(512), packed
    members += pax, header(tarfile.REGTYPE, len(packed), "GNUSparseFile.1/1.jpg"), packed, text
    write(tmp_path / "raw" / "0.tar", 5)
    whole = (tmp_path / "raw" / "0.tar").read_bytes()
    (tmp_path / "raw" / "0.tar").write_bytes(b"".join(members) + whole)
    (manifest,) = make_sbu(tmp_path / "raw", tmp_path / "out", workers=1)
    assert counts(tmp_path / "out") == {"sbu_0": 2}
    assert manifest["skipped"] == {"link or sparse file in a tar": {"count": 2, "first": ["0/0", "0/1"]}}


def test_ordinary_extended_headers_are_read(tmp_path: Path):
    """Long names of both kinds, what macOS adds to members, a header for all as git writes it."""
    name = "folder/" * 30 + "key"
    (tmp_path / "raw").mkdir()
    for place, form in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        with tarfile.open(
            tmp_path / "raw" / f"{place}.tar", "w", format=form, pax_headers={"comment": "a1b2" * 10}
        ) as tar:
            for suffix, content in of(place).items():
                member = tarfile.TarInfo(f"{name}ü.{suffix}")
                member.size, member.mtime = len(content), 1.5
                member.pax_headers = {
                    "LIBARCHIVE.xattr.com.apple.provenance": "AQAAbm9uZQ",
                    "comment": "1234567 = 1\n7",
                }
                tar.addfile(member, io.BytesIO(content))
    make_sbu(tmp_path / "raw", tmp_path / "out", workers=1)
    assert [row["image_id"] for row in read_rows(tmp_path / "out" / "sbu_0.arrow")] == [f"{n}/{name}ü" for n in (0, 1)]


def test_what_is_no_tar_file_is_said(tmp_path: Path):
    (tmp_path / "raw").mkdir()
    tar = tmp_path / "raw" / "00000.tar"

    def refusal() -> str:
        said = refused(make_sbu, tmp_path / "raw", workers=1)
        tar.unlink()
        return said

    os.mkfifo(tar)
    assert "00000.tar' is a pipe, a socket or a device" in refusal()
    tar.symlink_to("/dev/zero")
    assert "00000.tar' is a pipe, a socket or a device" in refusal()
    tar.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "is a git-LFS pointer" in refusal()
    tar.write_bytes(gzip.compress(bytes(1 << 24)))
    assert "is compressed by gzip; unpack it" in refusal()
