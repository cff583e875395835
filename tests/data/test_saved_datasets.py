"""Data sets of the library `datasets`, in place: order, splits, columns, images; what is damaged is refused."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets as library
import numpy as np
import pytest
from PIL import Image

from conftest import ROOT
from exchange.checkpoints import write_checkpoint
from renaissance.cli.main import main
from renaissance.core.errors import UserError
from renaissance.data.datasets import open_pairs, splits_of
from renaissance.data.pairs import PairDataset
from renaissance.data.prepare import prepare
from small_run import command, write_coco_vg


def picture(number: int) -> bytes:
    stream, random = io.BytesIO(), np.random.default_rng(number)
    Image.fromarray(random.integers(0, 256, (24, 32, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def rows(count: int, first: int = 0) -> dict[str, list[Any]]:
    numbers = range(first, first + count)
    images = [{"bytes": picture(number), "path": None} for number in numbers]
    captions = [[f"a red circle {number}", f"the square  {number}"] for number in numbers]
    return {"img": images, "texts": captions, "one": [texts[0] for texts in captions], "id": list(numbers)}


def dataset(count: int, first: int = 0) -> Any:
    value = library.Value("string")
    features = library.Features(
        {"img": library.Image(), "texts": library.List(value), "one": value, "id": library.Value("int64")}
    )
    return library.Dataset.from_dict(rows(count, first), features)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "mine"
    splits = {"train": dataset(23), "validation": dataset(5, 100), "extra": dataset(2, 200)}
    library.DatasetDict(splits).save_to_disk(folder, num_shards={"train": 3, "validation": 1, "extra": 1})
    return folder


COLUMNS = {"image_column": "img", "caption_column": "texts"}


def opened(folder: Path, split: str, **columns: str) -> PairDataset:
    return open_pairs([str(folder)], split, "none", **COLUMNS | columns)


def test_it_is_read_in_its_order_from_its_own_bytes(saved):
    pairs = opened(saved, "train")
    assert len(pairs) == 46 and splits_of(str(saved), "none", sample_kind="captions") == ("train", "val")
    theirs = library.load_from_disk(saved)["train"]
    for index in (0, 1, 17, 45):
        example, row = pairs[index], theirs[index // 2]
        assert example.text == " ".join(row["texts"][index % 2].split())
        assert example.images[0] == picture(row["id"])
    assert [pairs.text(index) for index in range(46)] == [
        " ".join(each.split()) for row in theirs["texts"] for each in row
    ]
    val = opened(saved, "val", caption_column="one")
    assert [val[index].text for index in range(5)] == [f"a red circle {number}" for number in range(100, 105)]
    assert opened(saved, "test") is None


def test_a_single_dataset_is_for_training_unless_it_says_otherwise(tmp_path):
    one = dataset(4)
    one.save_to_disk(tmp_path / "one")
    assert len(opened(tmp_path / "one", "train")) == 8 and opened(tmp_path / "one", "val") is None
    for split, named in (("train[:50%]", "train"), ("validation", "val"), ("test[:1]", "test")):
        one._split = library.NamedSplit(split)
        one.save_to_disk(tmp_path / named)
        assert len(opened(tmp_path / named, named)) == 8
    one._split = library.NamedSplit("train[:50%]+train[50%:]")
    one.save_to_disk(tmp_path / "halves")
    assert len(opened(tmp_path / "halves", "train")) == 8
    for split in ("train+test", "test + train"):
        _edit(tmp_path / "test" / "state.json", lambda content, split=split: content.update(_split=split))
        with pytest.raises(UserError, match=rf"is of several splits \('{re.escape(split)}'\); save each"):
            opened(tmp_path / "test", "train")
    _edit(tmp_path / "test" / "state.json", lambda content: content.update(_split="test"))
    with pytest.raises(UserError, match="has no split train, but test; to train on one, save it as DatasetDict"):
        opened(tmp_path / "test", "train")


def test_splits_of_other_names_are_said_and_empty_ones_refused(saved, tmp_path, capsys):
    assert opened(saved, "train").notes == (
        f"{saved}: Its splits extra are not read: only train, val and test are, in any usual word.",
    )
    prepare("captions", saved, tmp_path / "out", workers=1, **COLUMNS)
    assert capsys.readouterr().out.count("Its splits extra are not read") == 2
    library.DatasetDict(extra=dataset(2), restval=dataset(2)).save_to_disk(tmp_path / "odd")
    with pytest.raises(
        UserError, match="splits are extra, restval; none of them is train, val or test: save those that you want"
    ):
        opened(tmp_path / "odd", "train")
    library.DatasetDict(train=dataset(2), dev=dataset(0)).save_to_disk(tmp_path / "empty")
    library.Dataset.from_dict({}).save_to_disk(tmp_path / "nothing")
    for name, split in (("empty", "dev"), ("nothing", "train")):
        with pytest.raises(UserError, match=f": its split {split} has no rows; leave that split out when you save it"):
            opened(tmp_path / name, "train")


def test_a_column_of_splits_is_never_passed_over(tmp_path):
    dataset(6).add_column("split", ["train", "val", "restval"] * 2).save_to_disk(tmp_path / "a")
    with pytest.raises(
        UserError, match="whose column split has rows of restval, val among those of train; `python run.py prepare"
    ):
        opened(tmp_path / "a", "train")
    with pytest.raises(UserError, match="row 2 has split 'restval'; give train, val or test"):
        prepare("captions", tmp_path / "a", tmp_path / "out", workers=1, **COLUMNS)
    dataset(6).add_column("split", ["train", "val", None] * 2).save_to_disk(tmp_path / "b")
    prepare("captions", tmp_path / "b", tmp_path / "out", workers=1, **COLUMNS)
    counts = {split: len(open_pairs(["captions"], split, str(tmp_path / "out"))) for split in ("train", "val")}
    assert counts == {"train": 8, "val": 4}
    for word in ("trainval", "restval", "extra"):  # of which prepare refuses each
        dataset(2).add_column("split", ["train", word]).save_to_disk(tmp_path / word)
        with pytest.raises(UserError, match=f"{word}', whose column split has rows of {word} among those of train"):
            opened(tmp_path / word, "train")
    dataset(6).add_column("split", [0, 1, 2] * 2).save_to_disk(tmp_path / "c")  # numbers of something else
    assert len(opened(tmp_path / "c", "train")) == 12


FORMS = {  # type of a caption, its value in row n, texts that training reads
    "large": (library.Value("large_string"), lambda n: f"a {n}", 6),
    "null": (library.Value("string"), lambda n: [None, "a"][n % 2], 3),
    "lists of any length": (library.List(library.Value("string")), lambda n: ["a", "b"][: n % 3], 6),
    "null and empty in lists": (library.List(library.Value("string")), lambda n: [None, "", "a"], 6),
    "struct": ({"raw": library.Value("string")}, lambda n: {"raw": "a"}, "is struct<raw: string>; expected texts"),
    "lists of structs": (library.List({"raw": library.Value("string")}), lambda n: [{"raw": "a"}], "expected texts or lists"),
    "lists of lists": (library.List(library.List(library.Value("string"))), lambda n: [["a"]], "expected texts or lists"),
    "classes": (library.ClassLabel(names=["a", "b"]), lambda n: n % 2, "is int64; expected texts"),
    "nothing but null": (library.Value("string"), lambda n: None, "all are empty|image without a caption|Nothing is left"),
    "empty lists": (library.List(library.Value("string")), lambda n: [], "all are empty|Nothing is left"),
}  # fmt: skip


@pytest.mark.parametrize("form", [*FORMS])
def test_captions_of_any_type_are_read_or_refused_in_place_and_by_prepare(form, tmp_path):
    kind, value, expected = FORMS[form]
    features = library.Features({"image": library.Image(), "caption": kind})
    rows = {
        "image": [{"bytes": picture(n), "path": None} for n in range(6)],
        "caption": [value(n) for n in range(6)],
    }
    library.Dataset.from_dict(rows, features).save_to_disk(tmp_path / "a")

    def in_place() -> PairDataset:
        return open_pairs([str(tmp_path / "a")], "train", "none")

    def prepared() -> PairDataset:
        prepare("captions", tmp_path / "a", tmp_path / "out", workers=1)
        return open_pairs(["captions"], "train", str(tmp_path / "out"))

    for read in (in_place, prepared):
        if isinstance(expected, str):
            with pytest.raises(UserError, match=expected):
                read()
            assert not [*tmp_path.glob("out/*.arrow")]
            continue
        pairs = read()
        assert [(pair.text, pair.images[0]) for pair in map(pairs.__getitem__, range(len(pairs)))] == [
            (text, picture(n)) for n in range(6) for text in np.atleast_1d(value(n)).tolist() if text
        ]
        assert len(pairs) == expected


def test_check_data_takes_it_as_a_run_does(saved, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("image_column=img", "caption_column=texts", "workers=1")

    def check(*more: str) -> tuple[int, str, str]:
        return main(["check_data", "with", *words, *more]), *capsys.readouterr()

    status, out, err = check(f"datasets=['{saved}']")
    lines = [line.split()[:5] for line in out.splitlines() if ".arrow" in line]
    assert status == 0 and "nothing is wrong" in out, err
    assert lines[0] == ["train/data-00000-of-00003.arrow", "train", "8", "8", "16"]
    assert lines[-1] == ["validation/data-00000-of-00001.arrow", "val", "5", "5", "10"] and len(lines) == 4
    assert f"note: {saved}: Its splits extra are not read" in out and len([*tmp_path.glob("check_data_*.png")]) == 1
    write_coco_vg(tmp_path / "arrow")
    out = check(f"datasets=['coco', '{saved}']", "data_root=arrow")[1]
    assert "coco_caption_karpathy_val.arrow" in out and "validation/data-00000-of-00001.arrow" in out
    assert (
        "names a column of own data, and datasets=['coco'] are none" in check("datasets=['coco']", "data_root=arrow")[2]
    )
    broken = rows(4)
    broken["img"][2] = {"bytes": b"no image", "path": None}
    broken["split"] = ["train", "train", "train", "val"]
    features = dataset(1).features | {"split": library.Value("string")}
    library.Dataset.from_dict(broken, library.Features(features)).save_to_disk(tmp_path / "broken")
    status, _, err = check("datasets=['./broken']")
    assert status == 1 and "images that are unreadable (image): 1 (row 2: it is none of JPEG" in err
    assert "rows of another split: 1 (datasets names './broken', whose column split has rows of val" in err
    _edit(
        tmp_path / "broken" / "dataset_info.json", lambda content: content.update(splits={"train": {"num_examples": 9}})
    )
    status, out, _ = check("datasets=['./broken']")  # a `filter` leaves as much
    assert (
        "note: broken/data-00000-of-00001.arrow: counts that differ: 1 (dataset_info.json says 9 rows of train" in out
    )
    (tmp_path / "broken" / "state.json").unlink()  # a folder of the cache, which must be whole
    next((tmp_path / "broken").glob("*.arrow")).rename(tmp_path / "broken" / "broken-train.arrow")
    status, _, err = check("datasets=['./broken']")
    assert status == 1 and "counts that differ: 1 (dataset_info.json says 9 rows of train, there are 4)" in err


def test_check_data_takes_own_columns(tmp_path, capsys):
    import pyarrow as pa

    table = pa.table({"img": [picture(n) for n in range(3)], "texts": ["a", "b", "c"]})
    with pa.OSFile(str(tmp_path / "mine.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
        out.write_table(table)
    assert main(["check_data", "with", f"data_root={tmp_path}", "datasets=['mine']", "workers=1"]) == 1
    assert "image_column= and caption_column= call otherwise" in "".join(capsys.readouterr())
    words = ("image_column=img", "caption_column=texts", "workers=1")
    assert main(["check_data", "with", f"data_root={tmp_path}", *words]) == 0
    assert "nothing is wrong" in capsys.readouterr().out


HINT = "(for the folder give datasets=['./mine'])"


def test_a_folder_without_a_slash_is_pointed_out(saved, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(saved.parent)
    with pytest.raises(UserError, match=r"for the folder give datasets=\['./mine'\]"):
        open_pairs([saved.name], "train", str(tmp_path))
    with pytest.raises(UserError, match=r"none' cannot be read .* \(for the folder give datasets=\['./mine'\]\)\.$"):
        open_pairs([saved.name], "train", str(tmp_path / "none"))
    for root, said in (("none", "cannot be read"), (".", "of which data_root='.*' holds no file")):
        assert main(["check_data", "with", "datasets=['mine']", f"data_root={tmp_path / root}"]) == 1
        err = capsys.readouterr().err
        assert HINT in err and re.search(said, err)


def test_the_cache_of_the_hub_is_read(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    folder = tmp_path / "lab___pictures" / "default" / "0.0.0" / ("a" * 40)
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        files = sorted((saved / split).glob("*.arrow"))
        for number, file in enumerate(files):
            part = f"-{number:05d}-of-{len(files):05d}" if len(files) > 1 else ""
            shutil.copy(file, folder / f"pictures-{split}{part}.arrow")
    pairs = open_pairs(["lab/pictures"], "train", "none", **COLUMNS)
    assert [pairs.text(index) for index in range(46)] == [opened(saved, "train").text(index) for index in range(46)]
    next(folder.glob("*-00001-of-*")).unlink()
    with pytest.raises(UserError, match="is not whole: .* has 2 of 3 files of train"):
        open_pairs(["lab/pictures"], "train", "none", **COLUMNS)
    shutil.copytree(folder, folder.with_name("b" * 40))
    with pytest.raises(UserError, match="in several forms"):
        open_pairs(["lab/pictures"], "train", "none", **COLUMNS)


def test_what_the_library_itself_caches_is_read(tmp_path, monkeypatch):
    """A parquet file with an Image feature, as load_dataset leaves it in its cache."""
    dataset(7).to_parquet(tmp_path / "train.parquet")
    loaded = library.load_dataset(
        "parquet", data_files={"train": str(tmp_path / "train.parquet")}, cache_dir=str(tmp_path / "c")
    )
    folder = Path(loaded["train"].cache_files[0]["filename"]).parent
    loaded["train"].map(lambda row: row)  # leaves cache-*.arrow there
    assert [*folder.glob("cache-*.arrow")]
    pairs = opened(folder, "train")
    assert len(pairs) == 14 and pairs[3].images[0] == picture(1) and pairs.notes == ()
    prepare("captions", folder, tmp_path / "out", workers=1, **COLUMNS)
    assert len(open_pairs(["captions"], "train", str(tmp_path / "out"))) == 14
    _edit(folder / "dataset_info.json", lambda content: content["splits"]["train"].update(num_examples=9))
    sentence = "is not whole: dataset_info.json beside .* says 9 rows, found are 7; load it again"
    with pytest.raises(UserError, match=f"datasets names '{folder}': it {sentence}"):
        opened(folder, "train")
    with pytest.raises(UserError, match=f"root='{folder}': it {sentence}"):
        prepare("captions", folder, tmp_path / "again", workers=1, **COLUMNS)
    assert not (tmp_path / "again").exists()
    loaded["train"].select(range(3)).save_to_disk(tmp_path / "part")  # which still says 7
    assert len(opened(tmp_path / "part", "train")) == 6


def test_a_note_that_cannot_be_read_refuses_nothing_but_where_it_counts(tmp_path):
    dataset(3).save_to_disk(tmp_path / "a")
    cached = tmp_path / "cached"
    cached.mkdir()
    shutil.copy(next((tmp_path / "a").glob("*.arrow")), cached / "x-train.arrow")
    for said in ('{"splits": NaN}', '{"splits": {"train": {"num_examples": true}}}', '{"splits": '):
        for folder in (tmp_path / "a", cached):
            (folder / "dataset_info.json").write_text(said)
        assert len(opened(tmp_path / "a", "train")) == 6
    with pytest.raises(UserError, match=f"datasets names '{cached}': .*dataset_info.json cannot be read as JSON"):
        opened(cached, "train")


def test_one_data_set_under_two_names_counts_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset(2).save_to_disk("a")
    (tmp_path / "link").symlink_to("a")
    for other in ("./a/", str(tmp_path / "a"), "./link"):
        with pytest.raises(UserError, match=f"datasets names './a' and '{other}', which are one; each data set counts"):
            open_pairs(["./a", other], "train", "none", **COLUMNS)


def test_columns_that_stand_twice_are_refused(tmp_path):
    import pyarrow as pa

    dataset(2).save_to_disk(tmp_path / "a")
    path = next((tmp_path / "a").glob("*.arrow"))
    found = dataset(2).data.table
    for names, column in ((["img", "caption", "caption"], "caption"), (["img", "img", "caption"], "img")):
        table = pa.table([found["img" if name == "img" else "one"] for name in names], names=names)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
            out.write_table(table)
        with pytest.raises(UserError, match=f"has {column} more than once among its columns"):
            open_pairs([str(tmp_path / "a")], "train", "none", image_column="img")
        with pytest.raises(UserError, match=f"has {column} more than once among its columns"):
            prepare("captions", tmp_path / "a", tmp_path / "out", workers=1, image_column="img")
    assert not [*tmp_path.glob("out/*.arrow")]


def test_settings_of_lists_are_refused(saved, tmp_path):
    for idle in ({"annotations": "a.csv"}, {"separator": ";"}):
        [(setting, value)] = idle.items()
        with pytest.raises(
            UserError, match=f"{setting}='{value}': root='{saved}' is of the library `datasets` and has no"
        ):
            prepare("captions", saved, tmp_path / "out", workers=1, **COLUMNS, **idle)
    assert not (tmp_path / "out").exists()


def test_a_run_trains_on_it_and_goes_on_exactly(saved, tmp_path, capsys, hub_cache, monkeypatch):
    from small_run import SMALL, read

    monkeypatch.chdir(tmp_path)
    words = ("task_mlm_itm", *SMALL, f"datasets=['{saved}']", "image_column=img", "caption_column=texts", "max_steps=4")
    assert command(capsys, *words, "exp_name=whole").code == 0
    assert command(capsys, *words, "exp_name=half", "save_every_steps=2", "keep_last=5").code == 0
    folder = tmp_path / "result" / "half" / "version_0" / "checkpoints"
    resumed = command(capsys, "task_mlm_itm", f"resume_from={folder / 'step_000000002.ckpt'}", "log_dir=again")
    assert resumed.code == 0, resumed
    first = read(tmp_path / "result" / "whole" / "version_0" / "checkpoints" / "last.ckpt")
    second = read(next((tmp_path / "again").rglob("last.ckpt")))
    assert all(bool((first.model[name] == second.model[name]).all()) for name in first.model)


def test_it_mixes_with_arrow_files(saved, tmp_path):
    write_coco_vg(tmp_path)
    pairs = open_pairs(["coco", str(saved)], "val", str(tmp_path), **COLUMNS)
    assert [file.dataset for file in pairs.describe()] == ["coco", str(saved)]
    assert pairs[len(pairs) - 1].text == "the square 104"


def _edit(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


DAMAGE = {
    "cut short": (lambda folder: os.truncate(next((folder / "train").glob("*.arrow")), 900), "is cut short"),
    "a part is missing": (lambda folder: next((folder / "train").glob("*.arrow")).unlink(), "is not whole"),
    "no state": (lambda folder: (folder / "train" / "state.json").unlink(), "state.json"),
    "elsewhere": (
        lambda folder: _edit(folder / "train" / "state.json", lambda c: c["_data_files"][0].update(filename="../x")),
        "is not whole",
    ),
    "splits elsewhere": (lambda folder: _edit(folder / "dataset_dict.json", lambda c: c["splits"].append("../x")), "elsewhere"),
    "two of one kind": (
        lambda folder: (
            shutil.copytree(folder / "train", folder / "training"),
            _edit(folder / "dataset_dict.json", lambda c: c["splits"].append("training")),
        ),
        "several are train",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", [*DAMAGE])
def test_what_is_not_whole_is_refused(damage, saved, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(saved, folder)
    change, sentence = DAMAGE[damage]
    change(folder)
    with pytest.raises(UserError, match=sentence):
        opened(folder, "train")


def test_a_stream_cut_between_two_batches_is_refused(tmp_path):
    import pyarrow as pa

    table = dataset(30).data.table.combine_chunks()
    for count in (3, 2):
        with (
            pa.OSFile(str(tmp_path / f"mine_{count}.arrow"), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as out,
        ):
            for number in range(count):
                out.write_batch(table.slice(10 * number, 10).to_batches()[0])
    whole, shorter = ((tmp_path / f"mine_{count}.arrow").read_bytes() for count in (3, 2))
    folder = tmp_path / "a"
    dataset(30).save_to_disk(folder)
    path = next(folder.glob("*.arrow"))
    for content, fine in ((whole, True), (whole[: len(shorter) - 8], False), (whole + b"behind", False)):
        path.write_bytes(content)
        if fine:
            assert len(opened(folder, "train")) == 60
            continue
        with pytest.raises(UserError, match="is cut short"):
            opened(folder, "train")


def test_lengths_of_messages_that_flip_never_end_the_process(tmp_path):
    """Bits of the messages alone, in a process of its own: a crash of Arrow would end it."""
    dataset(4).save_to_disk(tmp_path / "a")
    path = next((tmp_path / "a").glob("*.arrow"))
    sound = path.read_bytes()
    script = f"""
import numpy as np
from pathlib import Path
from renaissance.core.errors import UserError
from renaissance.data.datasets import open_pairs
path, random = Path({str(path)!r}), np.random.default_rng(1)
sound = path.read_bytes()
body = sound.index(b"\\x89PNG")
for _ in range(400):
    damaged = bytearray(sound)
    place = int(random.integers(body))
    damaged[place] ^= 1 << int(random.integers(8))
    path.write_bytes(damaged)
    try:
        pairs = open_pairs([{str(path.parent)!r}], "train", "none", image_column="img", caption_column="texts")
        [pairs[index] for index in range(len(pairs))]
    except UserError:
        pass
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert sound


def test_names_of_the_hub_are_those_of_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    from datasets.naming import camelcase_to_snakecase

    for name in ("COCO_Captions", "flickr30k", "CC3MPairs", "a-B"):
        folder = tmp_path / f"Lab___{camelcase_to_snakecase(name)}" / "default" / "0.0.0"
        dataset(3).save_to_disk(tmp_path / "made")
        (folder / ("a" * 8)).mkdir(parents=True)
        shutil.copy(next((tmp_path / "made").glob("*.arrow")), folder / ("a" * 8) / "x-train.arrow")
        shutil.copytree(folder / ("a" * 8), folder / ("b" * 8 + ".incomplete"))
        assert len(open_pairs([f"Lab/{name}"], "train", "none", **COLUMNS)) == 6


@pytest.mark.parametrize("name", ["~nobody/x", "a/**", "a/\u2028b", "../x/y"])
def test_odd_names_are_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="datasets names"):
        open_pairs([name], "train", str(tmp_path))


def test_columns_that_nobody_has_are_refused(tmp_path):
    write_coco_vg(tmp_path)
    with pytest.raises(UserError, match="names a column of own data"):
        open_pairs(["coco"], "train", str(tmp_path), caption_column="text")


def test_bits_that_flip_never_end_the_process(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "mine")
    path = sorted((tmp_path / "mine" / "validation").glob("*.arrow"))[0]
    sound, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(sound)
        damaged[int(random.integers(len(sound)))] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            pairs = opened(tmp_path / "mine", "val")
            [pairs[index] for index in range(len(pairs))]
        except UserError:
            pass


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"caption_column": "caption"}, "needs one column 'caption'; its columns are .*caption_column="),
        ({"image_column": "picture"}, "needs one column 'picture'.*image_column="),
        (
            {"caption_column": "id"},
            "column 'id' is int64; expected texts or lists of texts; give another of img, .* caption_column=",
        ),
        (
            {"image_column": "one"},
            "column 'one' is string; expected images, or their bytes; give another of .* image_column=",
        ),
    ],
)
def test_another_column_is_said(columns, sentence, saved):
    with pytest.raises(UserError, match=sentence):
        opened(saved, "train", **columns)


def test_images_that_are_paths_alone_are_refused(tmp_path):
    features = library.Features({"img": library.Image(), "texts": library.Value("string")})
    (tmp_path / "a.png").write_bytes(picture(0))
    kept = library.Dataset.from_dict(
        {"img": [{"bytes": None, "path": str(tmp_path / "a.png")}], "texts": ["a"]}, features
    )
    table = kept.data.table
    kept.save_to_disk(tmp_path / "mine")  # which would embed the file
    import pyarrow as pa

    with (
        pa.OSFile(str(next((tmp_path / "mine").glob("*.arrow"))), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as out,
    ):
        out.write_table(table)
    with pytest.raises(
        UserError, match="row 0 has no image in 'img': its images are paths alone; save it with `save_to_disk`"
    ):
        opened(tmp_path / "mine", "train")
    with pytest.raises(
        UserError, match=r"row 0: its image is the path '/.*a\.png', which leads out of root; `save_to_disk`"
    ):
        prepare("captions", tmp_path / "mine", tmp_path / "out", workers=1, **COLUMNS)
    assert not [*tmp_path.glob("out/*.arrow")]
    (tmp_path / "a.png").rename(tmp_path / "mine" / "a.png")
    with (
        pa.OSFile(str(next((tmp_path / "mine").glob("*.arrow"))), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as out,
    ):
        for path in (str(tmp_path / "mine" / "a.png"), "a.png"):
            image = pa.array([{"bytes": None, "path": path}], table.schema.field("img").type)
            out.write_batch(pa.record_batch([image, pa.array(["a"])], table.schema.names))
    prepare("captions", tmp_path / "mine", tmp_path / "out", workers=1, **COLUMNS)
    pairs = open_pairs(["captions"], "train", str(tmp_path / "out"))
    assert [pairs[index].images[0] for index in range(len(pairs))] == [picture(0)] * 2


def test_what_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="no folder and not in the cache of `datasets`"):
        open_pairs(["lab/nothing"], "train", "none")
    (tmp_path / "own" / "empty").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds no data set that the library `datasets` has saved\.$"):
        open_pairs([str(tmp_path / "own" / "empty")], "train", "none")
    (tmp_path / "own" / "empty" / "a.parquet").touch()
    with pytest.raises(
        UserError, match="; `python run.py prepare with dataset=captions root=.*empty` reads .parquet files"
    ):
        open_pairs([str(tmp_path / "own" / "empty")], "train", "none")


def test_a_row_without_image_is_refused_in_place_and_counted_by_prepare(tmp_path, capsys):
    content = {**rows(4), "img": [None, *rows(4)["img"][1:]]}
    library.DatasetDict(train=library.Dataset.from_dict(content, dataset(1).features)).save_to_disk(tmp_path / "mine")
    with pytest.raises(
        UserError, match=r"row 0 has no image in 'img': leave out such rows with `filter` of the library"
    ):
        opened(tmp_path / "mine", "train")
    prepare("captions", tmp_path / "mine", tmp_path / "out", workers=1, max_unreadable=0.5, **COLUMNS)
    out = capsys.readouterr().out
    assert "Read from train/data-00000-of-00001.arrow." in out
    assert "train/data-00000-of-00001.arrow row 0: it has no image" in out
    assert len(open_pairs(["captions"], "train", str(tmp_path / "out"))) == 6


def test_encode_names_the_splits_that_are_not_read(saved, tmp_path, capsys):
    path = write_checkpoint(tmp_path, {"encoder": "vit"})
    columns = [f"{key}={value}" for key, value in COLUMNS.items()]
    words = [f"load_path={path}", f"datasets=['{saved}']", *columns, "what=text", "num_workers=0"]
    assert main(["encode", "with", *words, f"output={tmp_path / 'out'}"]) == 0
    assert f"note: {saved}: Its splits extra are not read" in capsys.readouterr().out
