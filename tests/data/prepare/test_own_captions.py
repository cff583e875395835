"""Own captions from JSONL, CSV and parquet, and the command that prepares any data set."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from skimage import data as skimage_data

from data.prepare.raw_files import photograph, read_rows, write_pictures
from renaissance.core.errors import UserError
from renaissance.data.datasets import open_pairs
from renaissance.data.prepare import prepare, tables
from renaissance.data.prepare.captions import make_arrow

JSONL = """\ufeff{"path": "p/1.jpg", "caption": "ein Hündchen"}

{"path": "./p/2.jpg", "caption": ["a cat", " asleep "], "extra": 1}
{"path": "p//1.jpg", "caption": "a puppy", "split": "train"}
"""
CSV = 'caption,path,split\nein Hündchen,p/1.jpg,\n"a cat",p/2.jpg,\n" asleep ",p/2.jpg,train\na puppy,p/1.jpg,\n'
ROWS = [("p/1.jpg", ["ein Hündchen", "a puppy"]), ("p/2.jpg", ["a cat", " asleep "])]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "raw" / "p", {f"{number}.jpg": photograph(number) for number in range(40)})
    return tmp_path / "raw"


@pytest.mark.parametrize(("name", "text"), [("captions.jsonl", JSONL), ("mine.csv", CSV)])
def test_captions_of_a_picture_are_put_together(root: Path, tmp_path: Path, name: str, text: str):
    (root / name).write_text(text, encoding="utf-8")
    make_arrow(root, tmp_path, workers=1)
    rows = read_rows(tmp_path / "captions_train.arrow")
    assert [(row["image_id"], row["caption"]) for row in rows] == ROWS
    assert [row["image"] for row in rows] == [photograph(1), photograph(2)]
    assert {row["split"] for row in rows} == {"train"}
    assert sorted(path.name for path in tmp_path.glob("*.arrow")) == ["captions_train.arrow"]


@pytest.mark.parametrize("as_list", [True, False])
def test_captions_from_parquet(root: Path, tmp_path: Path, as_list: bool):
    """As pandas and others write it: categories, large types, more columns than are needed, several row groups."""
    kind = pa.large_list(pa.large_string()) if as_list else pa.large_string()
    texts = [["ein Hündchen"], ["a cat", " asleep "], ["a puppy"]] if as_list else ["ein Hündchen", "a cat", "a puppy"]
    table = pa.table(
        {
            "score": [0.5, 0.1, 0.2],
            "captions" if as_list else "caption": pa.array(texts, kind),
            "split": pa.array(["train", None, ""]),
            "path": pa.array(["p/1.jpg", "p/2.jpg", "p/1.jpg"]).dictionary_encode(),
        }
    )
    pq.write_table(table, root / "mine.parquet", row_group_size=2)
    make_arrow(root, tmp_path, workers=1)
    rows = [(row["image_id"], row["caption"]) for row in read_rows(tmp_path / "captions_train.arrow")]
    assert rows == (ROWS if as_list else [ROWS[0], ("p/2.jpg", ["a cat"])])
    for cut, sentence in ((40, "cannot be read, or is cut short"), (0, "cannot be read, or is cut short")):
        (root / "mine.parquet").write_bytes((root / "mine.parquet").read_bytes()[:cut])
        with pytest.raises(UserError, match=sentence):
            make_arrow(root, tmp_path / "out")
    for columns, sentence in [
        (
            {"path": ["a"]},
            "has none of the columns caption, captions, title, text, sentences; its columns are path; name another",
        ),
        ({"path": ["a", None], "caption": ["b", "c"]}, "line 2 has no value in 'path'"),
        ({"path": ["a"], "caption": [3]}, r"line 1\['caption'\] is 3, but has to be text or a list"),
        ({"path": ["a"], "caption": ["b"], "split": ["extra"]}, "line 1 has split 'extra'"),
    ]:
        pq.write_table(pa.table(columns), root / "mine.parquet")
        with pytest.raises(UserError, match=sentence):
            make_arrow(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pictures_of_scikit_image_keep_every_pixel(tmp_path: Path):
    names = ("astronaut", "brick", "camera", "cell", "chelsea", "coffee", "coins", "grass", "moon", "page", "text")
    lines = [{"path": f"{name}.png", "captions": [name, f"an image of {name}"]} for name in names]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for name in names:
        (tmp_path / f"{name}.png").symlink_to(Path(skimage_data.__file__).parent / f"{name}.png")
    make_arrow(tmp_path, tmp_path, workers=2)
    rows = read_rows(tmp_path / "captions_train.arrow")
    assert [row["caption"][0] for row in rows] == list(names)
    for name, row in zip(names, rows, strict=True):
        assert row["image"] == (tmp_path / f"{name}.png").read_bytes()
        pixels = getattr(skimage_data, name)()
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(row["image"]))), pixels) and pixels.size > 10_000


def write_many(root: Path, **more) -> None:
    lines = [{"path": f"p/{number}.jpg", "caption": f"image {number}"} | more for number in range(40)]
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))


def test_validation_is_chosen_by_a_hash_of_the_path(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_many(root)
    chosen = []
    for share, folder in ((0.2, "a"), (0.2, "b"), (0.5, "c")):
        make_arrow(root, tmp_path / folder, name="mine", val_share=share, workers=1)
        train, val = (open_pairs(["mine"], split, tmp_path / folder) for split in ("train", "val"))
        ids = [{pairs[number].text for number in range(len(pairs))} for pairs in (train, val)]
        assert not ids[0] & ids[1]
        assert len(ids[0] | ids[1]) == 40
        chosen.append(ids[1])
    with open(root / "captions.jsonl", "a") as file:  # the same images under other spellings of their paths
        file.writelines(f'\n{{"path": "./p//{number}.jpg", "caption": "again"}}' for number in range(40))
    assert sum(each["texts"] for each in make_arrow(root, tmp_path / "d", val_share=0.5, workers=1)) == 80
    assert chosen[0] == chosen[1] < chosen[2]
    assert 2 <= len(chosen[0]) <= 16
    assert 10 <= len(chosen[2]) <= 30


def test_captions_that_cannot_be_used_are_counted(root: Path, tmp_path: Path):
    write_many(root, caption=["", "half \ud800 a pair", "a dog"])
    (manifest,) = make_arrow(root, tmp_path, workers=1)
    assert {row["caption"][0] for row in read_rows(tmp_path / "captions_train.arrow")} == {"a dog"}
    counted = {kind: skipped["count"] for kind, skipped in manifest["skipped"].items()}
    assert counted == {"empty caption": 40, "caption that is not Unicode text": 40}
    assert manifest["skipped"]["empty caption"]["first"] == [f"p/{number}.jpg" for number in range(10)]


def test_named_splits_win_over_the_share(root: Path, tmp_path: Path):
    write_many(root, split="test")
    make_arrow(root, tmp_path, val_share=0.5, workers=1)
    assert len(read_rows(tmp_path / "captions_test.arrow")) == 40


def splits_of(folder: Path) -> dict[str, int]:
    return {file.stem.rpartition("_")[2]: len(read_rows(file)) for file in sorted(folder.glob("*.arrow"))}


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (["mine_val.jsonl"], {"val": 3}),
        (["captions-validation-00000-of-00001.jsonl"], {"val": 3}),
        (["dev.csv"], {"val": 2}),
        (["Train.jsonl", "Dev.csv", "TestSet.csv"], {"test": 2, "train": 3, "val": 2}),
        (["train-0.jsonl", "train-1.csv"], {"train": 5}),
        (["contest.jsonl"], {"train": 3}),
        (["trainval.jsonl"], "says train and val: it has to be of one split"),
        (["train_on_test.csv"], "says test and train: it has to be of one split"),
        (["mine.jsonl", "mine_val.csv"], "found mine.jsonl, mine_val.csv; choose with annotations="),
    ],
    ids=str,
)
def test_the_name_of_a_file_says_the_split(root: Path, tmp_path: Path, names: list[str], rows: dict | str):
    for place, name in enumerate(names):
        lines = [(f"p/{10 * place + n}.jpg", "a") for n in range(2 if name.endswith(".csv") else 3)]
        text = "path,caption\n" + "".join(f"{path},{caption}\n" for path, caption in lines)
        if name.endswith(".jsonl"):
            text = "\n".join(json.dumps({"path": path, "caption": caption}) for path, caption in lines)
        (root / name).write_text(text)
        (root / f"._{name}").write_bytes(b"\0\5\x16\7")  # as macOS leaves them beside files on foreign disks
    if isinstance(rows, str):
        with pytest.raises(UserError, match=rows):
            make_arrow(root, tmp_path / "out")
    else:
        manifests = make_arrow(root, tmp_path / "out", workers=1)
        assert splits_of(tmp_path / "out") == rows
        said = {name for manifest in manifests for name in names if name in manifest["note"]}
        assert said == set(names)


def test_a_split_of_a_line_is_read_in_any_usual_word_and_wins_over_the_name(root: Path, tmp_path: Path):
    words = ["train", "Training", "validation", "DEV", "valid", "testing", "test"]
    lines = [{"path": f"p/{n}.jpg", "caption": "a", "split": word} for n, word in enumerate(words)]
    (root / "train_and_val.jsonl").write_text("\n".join(map(json.dumps, lines)))
    make_arrow(root, tmp_path / "out", workers=1)
    assert splits_of(tmp_path / "out") == {"train": 2, "val": 3, "test": 2}


def test_a_long_caption_and_a_number_that_is_none_do_not_stop_anyone(root: Path, tmp_path: Path):
    long = "a dog " * 30_000
    (root / "a.csv").write_text(f"path,caption\np/0.jpg,{long}\np/1.jpg,{'x' * (1 << 21)}\n")
    (root / "a.jsonl").write_text(json.dumps({"path": "p/0.jpg", "caption": long, "score": float("nan")}))
    for name in ("a.csv", "a.jsonl"):
        (manifest,) = make_arrow(root, tmp_path / name, annotations=name, workers=1)
        assert [row["caption"] for row in read_rows(tmp_path / name / "captions_train.arrow")] == [[long]]
        expected = {"caption of more than 1,048,576 characters", "image without a caption"}
        assert set(manifest["skipped"]) == (expected if name == "a.csv" else set())


def test_tables_that_claim_more_than_they_are_end_in_a_sentence(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A file of some kB must not become gigabytes: packed, a text or a place named many times, many nothings."""
    monkeypatch.setattr(tables, "_LEAST_BYTES", 1 << 20)  # all in small: the test is quick
    monkeypatch.setattr(tables, "_LEAST_VALUES", 10_000)
    monkeypatch.setattr(tables, "_SWELLS", 1)
    big = "a" * (1 << 20)
    paths = pa.array([f"p/{n}.jpg" for n in range(1000)])
    nothing = pa.nulls(40_000, pa.string())
    made = {
        "packed": ({"path": paths[:12], "caption": [big] * 12}, {"use_dictionary": False}),
        "named": (
            {"path": paths, "caption": pa.DictionaryArray.from_arrays(pa.array([0] * 1000), pa.array([big]))},
            {},
        ),
        "listed": ({"path": paths[:1], "caption": pa.array([["x"] * 40_000])}, {}),
        "nothing": ({"path": nothing, "caption": nothing}, {}),
    }
    for name, (columns, options) in made.items():
        pq.write_table(pa.table(columns), root / f"{name}.parquet", compression="zstd", **options)
        assert (root / f"{name}.parquet").stat().st_size < 100_000
        with pytest.raises(UserError, match=r"it is not read|line 1\['path'\] is None"):
            make_arrow(root, tmp_path / "out", annotations=f"{name}.parquet")
    assert not (tmp_path / "out").exists()


def test_files_of_an_earlier_run_are_not_left_beside_new_ones(root: Path, tmp_path: Path):
    write_many(root)
    make_arrow(root, tmp_path, val_share=0.5, workers=1)
    with pytest.raises(UserError, match=r"captions_val\.arrow, which this run would not replace"):
        make_arrow(root, tmp_path, workers=1)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.jsonl", '{"path": "p/1.jpg", "caption": "a"}\n{"path": ', "line 2 cannot be read as JSON"),
        ("a.jsonl", '["p/1.jpg", "a"]', "line 1 is list, but has to be an object"),
        (
            "a.jsonl",
            '{"path": "p/1.jpg"}',
            "line 1 lacks 'caption' (captions, title, text, sentences); it has path, of which caption_column= names one.",
        ),
        (
            "a.jsonl",
            '{"file": "p/1.jpg", "text": "a"}',
            "line 1 lacks 'path' (image, filepath, file_name, image_path, img); it has file, text, of which image_column=",
        ),
        ("a.jsonl", '{"path": "p/1.jpg", "caption": ["a", 1]}', "line 1['caption'][1] is 1, but has to be text"),
        ("a.jsonl", '{"path": "../1.jpg", "caption": "a"}', "leads out of root"),
        ("a.jsonl", '{"path": "/p/1.jpg", "caption": "a"}', "leads out of root"),
        ("a.jsonl", '{"path": "p\\\\..\\\\..\\\\1.jpg", "caption": "a"}', "leads out of root"),
        ("a.jsonl", '{"path": "", "caption": "a"}', "is not a path below root"),
        ("a.jsonl", '{"path": "p/1.jpg", "caption": "a", "split": "extra"}', "has split 'extra'"),
        ("a.jsonl", "\n", "has no captions"),
        (
            "a.csv",
            "p/1.jpg,a dog\n",
            "has none of the columns path, image, filepath, file_name, image_path, img; its columns in its first line are p/",
        ),
        ("a.csv", "", "its columns in its first line are none"),
        (
            "a.csv",
            "path;caption\np/1.jpg;a\n",
            "has the one column 'path;caption' in its first line; give separator=';'.",
        ),
        ("a.csv", "path\tcaption\np/1.jpg\ta\n", "in its first line; give separator=tab."),
        (
            "a.tsv",
            "path,caption\np/1.jpg,a\n",
            "has the one column 'path,caption' in its first line; give separator=','.",
        ),
        ("a.csv", "path,captions\n../1.jpg,a\n", "leads out of root"),
        ("a.csv", "path,caption\np/1.jpg\n", "line 2 has no value in 'caption'."),
        ("a.csv", "path,caption,caption\np/1.jpg,a,b\n", "has caption more than once among its columns"),
        ("a.csv", 'path,caption\np/1.jpg,"open\n', "is cut short or is not CSV (unexpected end of data)"),
        ("a.csv", "path,caption\np/1.jpg,a dog, asleep\n", "line 2 has more values than the first line has names"),
        (
            "a.json",
            '{"p/1.jpg": "a dog"}',
            "holds no entry at 'images.item'; own captions are COCO's images and annotations, or",
        ),
        ("a.jsonl.gz", "", "found none (a.jsonl.gz); choose with annotations="),
        ("a.txt", "p/1.jpg a", "needs one .jsonl, .csv, .tsv, .json, .parquet or .tar file, or one for each split"),
    ],
)
def test_refuses_annotations(root: Path, tmp_path: Path, name: str, text: str, sentence: str):
    (root / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as refusal:
        make_arrow(root, tmp_path / "arrow")
    assert sentence in str(refusal.value)
    assert not (tmp_path / "arrow").exists()


def test_refuses_a_picture_in_two_splits_and_text_that_is_not_utf8(root: Path, tmp_path: Path):
    lines = [{"path": "p/1.jpg", "caption": "a", "split": split} for split in ("train", "val")]
    (root / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError, match="listed in split 'train' and in 'val'"):
        make_arrow(root, tmp_path)
    (root / "a.jsonl").write_bytes('{"path": "p/1.jpg", "caption": "Hündchen"}'.encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8 text"):
        make_arrow(root, tmp_path)


def test_refuses_options(root: Path, tmp_path: Path):
    write_many(root)
    (root / "other.csv").write_text("path,caption\np/1.jpg,a\n")
    for options, sentence in [
        ({}, "found captions.jsonl, other.csv; choose with annotations="),
        ({"annotations": "none.csv"}, "annotations='none.csv' is not a"),
        ({"annotations": 3}, "annotations='3' is not a"),
        ({"val_share": 1}, "val_share=1 must be"),
        ({"val_share": "much"}, "val_share='much' must be"),
        ({"name": "a/b"}, "name='a/b' must be a plain name"),
        ({"name": 12}, "name=12 must be a plain name"),
        ({"name": "coco"}, "and none of coco"),
        ({"name": "images"}, "name='images' must be a plain name such as 'captions'"),
        ({"name": "vqav2"}, "name='vqav2' stands for vqav2_train.arrow, a file of 'vqa'; give another name."),
        ({"name": "sbu_0"}, "name='sbu_0' stands for sbu_0.arrow, a file of 'sbu'"),
    ]:
        with pytest.raises(UserError) as refusal:
            make_arrow(root, tmp_path / "arrow", **options)
        assert sentence in str(refusal.value)
    make_arrow(root, tmp_path / "arrow", annotations="other.csv", workers=1)
    assert len(read_rows(tmp_path / "arrow" / "captions_train.arrow")) == 1


def test_real_sentences_with_their_pictures(nlvr1_dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The true sentences of NLVR, which none of us wrote, as own captions."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    entries = [json.loads(line) for line in (nlvr1_dev / "dev.json").read_text().splitlines()]
    true = [
        {"path": f"images/{e['directory']}/dev-{e['identifier']}-0.png", "caption": e["sentence"]}
        for e in entries
        if e["label"] == "true"
    ]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "images").symlink_to(nlvr1_dev / "images")
    (tmp_path / "raw" / "captions.jsonl").write_text("\n".join(map(json.dumps, true)))
    (manifest,) = make_arrow(tmp_path / "raw", tmp_path, workers=2)
    assert (manifest["rows"], manifest["skipped"]) == (len({line["path"] for line in true}), {})
    data = open_pairs(["captions"], "train", tmp_path)
    assert {data[number].text for number in range(len(data))} == {" ".join(line["caption"].split()) for line in true}
    assert data[0].images[0] == (nlvr1_dev / true[0]["path"]).read_bytes()


# -- the command ----------------------------------------------------------------------------------------------------


def test_prepare_prints_what_came_of_it(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    write_many(root)
    (root / "p" / "7.jpg").unlink()
    manifests = prepare("captions", root, tmp_path, workers=1, max_unreadable=0.1, val_share=None, name="mine")
    printed = capsys.readouterr().out
    assert printed.startswith("mine_train.arrow: 39 images, 39 texts, 0.")
    assert "missing: 1 (first p/7.jpg: no such file)" in printed
    assert manifests == [json.loads((tmp_path / "mine_train.json").read_text())]


def test_names_out_of_data_forge_no_line_and_steer_no_terminal(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    name = "p/\x1b[2Jgone\nerror: forged\u2028\u202e.jpg"
    (root / "captions.jsonl").write_text("\n".join(json.dumps({"path": n, "caption": "a"}) for n in ("p/1.jpg", name)))
    prepare("captions", root, tmp_path, workers=1, max_unreadable=1)
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.splitlines()) and printed.count("\n") == 2
    (root / "captions.jsonl").write_text(json.dumps({"path": f"../{name}", "caption": "a"}))
    (root / "a\x1b[2J\n.csv").write_text("p\x1b[2J\na")
    for given in ("captions.jsonl", "a\x1b[2J\n.csv", None):
        with pytest.raises(UserError) as refusal:
            prepare("captions", root, tmp_path / "out", annotations=given)
        assert str(refusal.value).isprintable()


def test_prepare_refuses_what_it_does_not_know(root: Path, tmp_path: Path):
    for arguments, options, sentence in [
        (("coca", root, tmp_path), {}, "dataset='coca' cannot be prepared (nearest: coco); the data sets are coco"),
        ((None, root, tmp_path), {}, "dataset=None cannot be prepared; the data sets are coco"),
        (("coco", None, tmp_path), {}, "prepare needs root=<folder>, not None"),
        (("coco", root, 3), {}, "prepare needs data_root=<folder>, not 3"),
        (("coco", root, tmp_path), {"val_share": 0.1}, "dataset=coco has no option val_share; its options are workers"),
    ]:
        with pytest.raises(UserError) as refusal:
            prepare(*arguments, **options)
        assert sentence in str(refusal.value)


def test_the_command_line(root: Path, tmp_path: Path, run_cli):
    write_many(root)
    done = run_cli(
        "prepare", "with", "dataset=captions", f"root={root}", "data_root=arrow", "val_share=0.2", "workers=2"
    )
    assert done.code == 0, done.stderr
    assert "captions_train.arrow: " in done.stdout
    assert "rows/s" in done.stderr
    assert len(list((tmp_path / "arrow").glob("captions_*.arrow"))) == 2
    done = run_cli("prepare", "with", "dataset=coco", f"root={root}", "data_root=arrow")
    assert (done.code, done.stderr.count("\n"), "Traceback" in done.stderr) == (1, 1, False)
