"""check_data: clean files of every data set pass, every planted defect is found, named, and ends with status 1."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arrow_files
import pyarrow as pa
import pytest
from arrow_files import Columns, files_of, picture, write_columns

from conftest import ROOT
from renaissance.cli.main import main
from renaissance.data.dataset_specs import DATASETS
from renaissance.data.prepare.arrow_file import manifest_of

Check = Callable[..., tuple[int, str, str]]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """`check("datasets=...")` checks tmp_path/arrow; gives status, what was printed, and the sentences of the error."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*words: str) -> tuple[int, str, str]:
        given = (f"data_root={tmp_path / 'arrow'}", f"sheet_folder={tmp_path / 'sheets'}", "workers=1")
        status = main(["check_data", "with", *given, *words])
        out, err = capsys.readouterr()
        return status, out, "\n".join(line for line in re.split(r"[\r\n]", err) if "rows/s" not in line).strip()

    return run


@pytest.mark.parametrize("dataset", DATASETS)
def test_clean_files_pass(check: Check, tmp_path: Path, dataset: str):
    files = arrow_files.write(tmp_path / "arrow", dataset)
    row = DATASETS[dataset]
    named = {file.format(shard=0, name=dataset, split=split) for split, each in row.splits.items() for file in each}
    assert named | set(row.extra_files) <= set(files)  # the files of this test cover the whole row
    status, out, err = check()
    assert (status, err) == (0, "") and "nothing is wrong" in out
    pictures = len(row.image_columns)
    for name, columns in files.items():
        [line] = [line.split() for line in out.splitlines() if line.split()[:1] == [name]]
        rows = len(columns["split" if "split" in columns else next(iter(columns))])
        texts = sum(map(len, columns.get(row.samples or "texts", ())))
        assert line[2] == f"{rows:,}" and f"{rows * pictures:,}" in line[3:] and f"{texts:,}" in line[3:], line
        assert line[-1] == "none"
    for file, expected in row.expected.items():
        assert f"{next(filter(None, expected)):,}" in out, file
    assert (tmp_path / "sheets" / f"check_data_{dataset}.png").is_file()


def test_every_shard_of_an_extra_file_is_checked(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a plugin's data set, say."""
    spec = DATASETS["coco"]._replace(
        splits={"train": ("toy_train.arrow",)}, extra_files=("toy_more_{shard}.arrow",), expected={}, older_files={}
    )
    monkeypatch.setitem(DATASETS.data, "toy", spec)
    arrow_files.write(tmp_path / "other", "coco")
    (tmp_path / "arrow").mkdir()
    for name in ("toy_train.arrow", "toy_more_0.arrow", "toy_more_1.arrow"):
        shutil.copy(tmp_path / "other" / "coco_caption_karpathy_train.arrow", tmp_path / "arrow" / name)
    _, out, _ = check("datasets=['toy']")
    assert all(out.count(name) for name in ("toy_train.arrow", "toy_more_0.arrow", "toy_more_1.arrow"))


def put(column: str, value: Any, *places: int) -> Callable[[Columns], None]:
    """A defect: another value at columns[column][row][place]..."""

    def change(columns: Columns) -> None:
        *way, last = places
        inner = columns[column] = json.loads(json.dumps(columns[column])) if column[:5] != "image" else columns[column]
        for place in way:
            inner = inner[place]
        inner[last] = value

    return change


JPEG = picture(0)
DEFECTS = {
    "no image": ("coco", "coco_caption_karpathy_val", put("image", b"junk", 3), r"unreadable \(image\): 1 \(row 3: "),
    "half an image": ("vg", "vg", put("image", JPEG[: len(JPEG) // 2], 4), r"unreadable \(image\): 1 \(row 4: "),
    "second image": ("nlvr2", "nlvr2_dev", put("image_1", b"GIF89a", 1), r"unreadable \(image_1\): 1 \(row 1: "),
    "empty image": ("f30k", "f30k_caption_karpathy_val", put("image", b"", 2), "row 2 has no image in 'image'"),
    "image_id twice": ("sbu", "sbu_1", put("image_id", "5101.jpg", 4), r"image_id that occurred before: 1 \(row 4\)"),
    "no caption column": ("coco", "coco_caption_karpathy_val", lambda columns: columns.pop("caption"), "'caption'"),
    "fewer x": ("vg", "vg", put("x", [1], 2), "row 2 has 1 in 'x'; expected as many entries as in 'caption'"),
    "fewer answers": ("vqa", "vqav2_train", put("answers", [["yes"]], 1), "row 1 has 1 in 'answers'; expected as many entries"),
    "fewer labels": ("vqa", "vqav2_train", put("answer_labels", [7], 1, 1), "row 1 has 1 in 'answer_labels'; expected as many"),
    "label": ("vqa", "vqav2_train", put("answer_labels", -1, 4, 1, 0), "row 4 has -1 in 'answer_labels'; expected 0 to inf"),
    "score": ("vqa", "vqav2_val", put("answer_scores", 1.5, 3, 0, 0), r"row 3 has 1.5 in 'answer_scores'; expected"),
    "no score": ("vqa", "vqav2_train", put("answer_scores", float("nan"), 0, 0, 0), r"row 0 has nan in 'answer_scores'"),
    "same number": ("coco", "coco_caption_karpathy_val", put("caption_ids", 12_000, 3, 0), "caption_ids that occurred before"),
    "too few numbers": ("coco", "coco_caption_karpathy_val", put("caption_ids", [12_000], 2), "expected as many entries as"),
    "question_id twice": ("vqa", "vqav2_train", put("question_id", 60004, 3, 1), r"question_id that occurred before: 1 "),
    "truth": ("nlvr2", "nlvr2_train", put("answers", "true", 2, 0), "row 2 has true in 'answers'; expected one of True, False"),
    "identifier twice": ("nlvr2", "nlvr2_test1", put("identifiers", "train-72-0-1", 4, 0), "identifiers that occurred"),
    "pair twice": ("nlvr2", "nlvr2_test1", put("identifier", "train-72-0", 4), r"identifier that occurred before: 1 \(row 4"),
    "gold label": ("snli", "snli_dev", put("labels", -1, 3, 1), "row 3 has -1 in 'labels'; expected 0 to 2"),
    "no hypothesis": ("snli", "snli_dev", put("sentences", ["alone"], 3, 1), "row 3 has 1 in 'sentences'; expected 2 values"),
    "no such box": ("refcoco", "refcoco_unc_testA", put("labels", 2, 4), "row 4 has 2 in 'labels'; expected a place in 'bboxes'"),
    "three numbers": ("refcoco+", "refcoco+_unc_val", put("bboxes", [1.0, 2.0, 3.0], 0, 1), "row 0 has 3 in 'bboxes'; expected"),
    "no number": ("refcocog", "refcocog_umd_val", put("bboxes", float("inf"), 2, 1, 3), "row 2 has inf in 'bboxes'"),
    "ref_id twice": ("refcocog_google", "refcocog_google_val", put("ref_id", 12100, 1), r"ref_id that occurred before: 1 "),
    "negative class": ("images", "images_val", put("label", -1, 1), "row 1 has -1 in 'label'; expected 0 to inf"),
    "no text": ("sugarcrepe", "sugarcrepe", put("texts", " ", 2, 1), r"empty texts: 1 \(row 2\)"),
    "no right text": ("valse", "valse", put("correct", [0, 0, 0], 3, 0), r"an image to which no text belongs: 1 \(row 3\)"),
    "fewer texts": ("aro_order_coco", "aro_order_coco", put("correct", [1, 0], 1, 0),
        "row 1 has 2 in 'correct'; expected as many values in each entry as in 'texts'"),
    "fewer images": ("mmvp", "mmvp", put("correct", [[1, 0]], 4), "row 4 has 1 in 'correct'; expected 2 entries"),
    "half right": ("vsr", "vsr_test", put("correct", 2, 1, 0, 0), "row 1 has 2 in 'correct'; expected 0 to 1"),
    "second image without text": ("winoground", "winoground", put("correct", [0, 0], 1, 1), r"no text belongs: 1 \(row 1\)"),
    "id twice": ("whatsup_a", "whatsup_a", put("id", "180_0", 4), r"id that occurred before: 1 \(row 4\)"),
    "box outside": ("aro_relation", "aro_relation", put("bboxes", [36.0, 3.0, 9.0, 8.0], 2, 0),
        r"boxes with nothing of their image: 1 \(row 2: \[36.0, 3.0, 9.0, 8.0\]\)"),
    "two boxes": ("aro_attribution", "aro_attribution", put("bboxes", [[0.0, 0.0, 9.0, 8.0]] * 2, 1), "row 1 has 2 in 'bboxes'"),
    "image in train and val": ("f30k", "f30k_caption_karpathy_val", put("image", picture(20, 1), 2),
        r"f30k_caption_karpathy_train.arrow: images that f30k train shares with f30k val, by content: 1 \(row 1 is "
        r"f30k_caption_karpathy_val.arrow row 2\)"),
    "same name in train and test": ("coco", "coco_caption_karpathy_test", put("image_id", "COCO_train2014_000000001102.jpg", 0),
        r"_restval.arrow: images that coco train shares with coco test, by COCO number: 1 \(row 2 is coco_"),
    "image in val and test": ("captions", "captions_test", put("image", picture(141, 0), 0), "val shares with captions test"),
    "second image in train": ("nlvr2", "nlvr2_dev", put("image_1", picture(70, 4, 0), 3),
        r"nlvr2 train shares with nlvr2 val, by content: 1 \(row 4 is nlvr2_dev.arrow row 3\)"),
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_is_found(check: Check, tmp_path: Path, defect: str):
    dataset, name, change, sentence = DEFECTS[defect]
    arrow_files.write(tmp_path / "arrow", dataset)
    columns = {column: list(values) for column, values in files_of(dataset)[f"{name}.arrow"].items()}
    change(columns)
    write_columns(tmp_path / "arrow" / f"{name}.arrow", columns)
    status, out, err = check()
    assert status == 1 and err.startswith("error: ") and err.count("\n") == 0, err
    assert re.search(sentence, err) and f"{name}" in err, err
    if " shares with " not in err:
        bad = [
            line for line in out.splitlines() if line.startswith("  ") and line.split()[-1] not in ("none", "problems")
        ]
        assert [line.split()[0] for line in bad if ".arrow" in line] == [f"{name}.arrow"]


def test_label_without_a_name(check: Check, tmp_path: Path):
    arrow_files.write(tmp_path / "arrow", "images")
    metadata = {"renaissance": json.dumps({"dataset": "images", "split": "val", "labels": ["cat"]})}
    columns = files_of("images")["images_val.arrow"]
    write_columns(tmp_path / "arrow" / "images_val.arrow", columns, metadata=metadata)
    status, _, err = check()
    assert (
        status == 1
        and "images_val.arrow' row 1 has 1 in 'label'; expected 0 to 0, which have label names in the file" in err
    )


def test_damaged_files_do_not_stop_the_others(check: Check, tmp_path: Path):
    """Cut short, with offsets that point nowhere, of no format: a sentence each, and the rest is checked."""
    folder = tmp_path / "arrow"
    arrow_files.write(folder, "coco")
    train, restval, val, test = (folder / f"coco_caption_karpathy_{split}.arrow" for split in
                                 ("train", "restval", "val", "test"))  # fmt: skip
    train.write_bytes(train.read_bytes()[:-100])
    offsets = pa.py_buffer(b"".join(number.to_bytes(4, "little") for number in (0, 10**9, 3)))
    pictures = pa.Array.from_buffers(pa.binary(), 2, [None, offsets, pa.py_buffer(JPEG)])
    with pa.OSFile(str(restval), "wb") as file:
        table = pa.table({"image": pictures, "caption": [["a"], ["b"]]})
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    val.write_bytes(b"PK\x03\x04 something else")
    columns = files_of("coco")[test.name]
    columns["image"][0] = b"junk"
    write_columns(test, columns)
    status, out, err = check()
    assert status == 1 and err.startswith("error: 4 things are wrong:\n")
    for sentence in (
        "_train.arrow' is not a whole Arrow file",
        "_restval.arrow' is damaged",
        "_val.arrow' is not a whole Arrow file",
    ):
        assert sentence in err
    assert "test.arrow: images that are unreadable (image): 1 (row 0: " in err
    assert (tmp_path / "sheets" / "check_data_coco.png").is_file()


def test_answers_that_are_missing_in_a_split_that_needs_them(check: Check, tmp_path: Path):
    arrow_files.write(tmp_path / "arrow", "vqa")
    write_columns(tmp_path / "arrow" / "vqav2_rest_val.arrow", files_of("vqa")["vqav2_test.arrow"])
    status, _, err = check()
    assert status == 1 and "vqav2_rest_val.arrow: rows without answers: 5 (row 0; row 1; row 2; ...)" in err


def test_manifest_of_another_file(check: Check, tmp_path: Path):
    arrow_files.write(tmp_path / "arrow", "vg")
    manifest = {
        "rows": 7,
        "images": 7,
        "texts": 7,
        "bytes": (tmp_path / "arrow" / "vg.arrow").stat().st_size,
        "skipped": {"missing": {"count": 2, "first": ["1.jpg"]}},
    }
    (tmp_path / "arrow" / "vg.json").write_text(json.dumps(manifest))
    status, out, err = check()
    assert status == 1 and "vg.json says 7 rows, there are 5" in err
    [line] = [line.split() for line in out.splitlines() if line.startswith("  vg.arrow")]
    assert line[-2:] == ["2", "1"]


def test_missing_shard(check: Check, tmp_path: Path):
    arrow_files.write(tmp_path / "arrow", "gcc")
    (tmp_path / "arrow" / "conceptual_caption_train_0.arrow").unlink()
    status, _, err = check()
    assert (
        status == 1 and "_train_1.arrow: shards that are missing before it: 1 (conceptual_caption_train_0.arrow)" in err
    )


def test_what_is_only_worth_knowing(check: Check, tmp_path: Path):
    """Shared images of two data sets, or of a split that is made so; empty texts, flat boxes, files of no layout."""
    folder = tmp_path / "arrow"
    google, coco, vg = (arrow_files.write(folder, name) for name in ("refcocog_google", "coco", "vg"))
    columns = google["refcocog_google_val.arrow"]
    columns["image"][0], columns["bboxes"] = picture(120, 1), [[[0, 0, 10, 0], [1, 1, 5, 5]]] * arrow_files.ROWS
    write_columns(folder / "refcocog_google_val.arrow", columns)
    vg["vg.arrow"]["image"][2] = coco["coco_caption_karpathy_val.arrow"]["image"][3]
    vg["vg.arrow"]["caption"][4] = [" \n", "a dog"]
    vg["vg.arrow"]["image"][1] = vg["vg.arrow"]["image"][0]
    vg["vg.arrow"] |= {name: [[], *vg["vg.arrow"][name][1:]] for name in ("caption", "x", "y", "width", "height")}
    write_columns(folder / "vg.arrow", vg["vg.arrow"])
    write_columns(folder / "vectors.arrow", {"vector\x1b[31m": [[1.0]]})
    status, out, err = check()
    assert (status, err) == (0, "")
    by_name = "refcocog_google train shares with refcocog_google val, by content: 1 (row 2 is refcocog_google_val.arrow row 0)"
    for note in (
        by_name,
        "_val.arrow: images that coco val shares with vg train, by content: 1 (row 3 is vg.arrow row 2)",
        "boxes without width or height: 5 ([0.0, 0.0, 10.0, 0.0]",
        "vg.arrow: empty texts: 1 (row 4)",
        "vg.arrow: rows without caption, which no run reads: 1 (row 0)",
        "vg.arrow: images that occurred before in the file: 1 (row 1)",
        "vectors.arrow is of unknown layout: its columns are vector\\x1b[31m",
        "_val.arrow: differences from the official download: 1 (5 rows instead of 5,000)",
    ):
        assert note in out, note


def test_same_picture_of_coco_in_two_data_sets(check: Check, tmp_path: Path):
    """By its number, whatever its bytes, through file names and integers."""
    arrow_files.write(tmp_path / "arrow", "coco")
    files = arrow_files.write(tmp_path / "arrow", "vqa")
    columns = files["vqav2_train.arrow"]
    columns["image_id"][2] = 1204  # of coco val
    write_columns(tmp_path / "arrow" / "vqav2_train.arrow", columns)
    status, out, _ = check()
    assert status == 0
    assert (
        "_val.arrow: images that coco val shares with vqa train, by COCO number: 1 (row 4 is vqav2_train.arrow row 2)"
        in out
    )


NLVR = ROOT.parent / "shared" / "data" / "nlvr1-dev" / "images"


def test_names_of_another_layout_hold_no_number_of_the_collection(check: Check, tmp_path: Path):
    """Own files in the layout of SNLI-VE: the numbers in NLVR's names are no images of Flickr30k."""
    names = sorted(path.name for path in NLVR.rglob("*.png"))[: 3 * arrow_files.ROWS] or [
        f"dev-{number}-{part}-0.png" for number in (1572, 1373, 1374) for part in range(arrow_files.ROWS)
    ]
    files = arrow_files.write(tmp_path / "arrow", "snli")
    for place, (name, columns) in enumerate(files.items()):
        columns["image_id"] = names[place * arrow_files.ROWS :][: arrow_files.ROWS]
        write_columns(tmp_path / "arrow" / name, columns)
    status, out, err = check()
    assert (status, err) == (0, "") and " shares with " not in out


def test_a_manifest_of_another_form_is_said(check: Check, tmp_path: Path):
    arrow_files.write(tmp_path / "arrow", "vg")
    for content in ("[]", '{"rows": 5, "bytes": 1, "skipped": {"a": 3}}', "[" * 100_000):
        manifest_of(tmp_path / "arrow" / "vg.arrow").write_text(content)
        status, _, err = check()
        assert status == 1 and "manifests that cannot be read: 1" in err and "\n" not in err


def test_older_files(check: Check, tmp_path: Path):
    """As pandas wrote them: large types, one batch, an index; older names; answers of a test split as a list of nothing."""
    folder = tmp_path / "arrow"
    folder.mkdir()
    boxes = files_of("refcocog")["refcocog_umd_val.arrow"]
    write_columns(
        folder / "refcoco_umd_val.arrow", {name: boxes[name] for name in ("image", "sentences", "bboxes", "labels")}
    )
    tested = pa.table(files_of("vqa")["vqav2_test.arrow"])
    tested = tested.set_column(0, "image", tested["image"].cast(pa.large_binary()))
    tested = tested.set_column(1, "questions", tested["questions"].cast(pa.large_list(pa.large_string())))
    assert tested["answers"].type == pa.list_(pa.null())
    tested = tested.append_column("__index_level_0__", pa.array(range(5)))
    with pa.OSFile(str(folder / "vqav2_test.arrow"), "wb") as file, pa.ipc.new_file(file, tested.schema) as writer:
        writer.write_table(tested)
    status, out, err = check()
    assert (status, err) == (0, "")
    assert re.search(r"refcoco_umd_val\.arrow +val +5 +2,573", out)  # of refcocog
    status, out, _ = check('datasets=["refcocog"]')
    assert status == 0 and "vqav2" not in out
    write_columns(folder / "captions_train.arrow", {"image": [picture(1)], "caption": ["one text"]})
    status, out, _ = check('datasets="captions"')
    assert status == 0 and re.search(r"captions_train\.arrow +train +1 +1 +1 ", out)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data_root=None"], "check_data needs data_root=<folder of arrow files>, not None."),
        (["data_root=nowhere"], "data_root='nowhere' cannot be read (No such file or directory)"),
        (['datasets=["vgg"]'], "datasets names 'vgg' (nearest: vg)"),
        (['datasets=["vqa"]'], "datasets names 'vqa', of which data_root="),
        (["datasets=[]"], 'datasets=[] is not allowed: give names, such as ["coco","vg"].'),
        (["max_text_len=0"], "max_text_len=0"),
        (["sheet_folder=[3]"], "sheet_folder=[3] is not allowed: give a folder"),
        (["workers=0"], "workers=0 is not allowed: give a whole number of at least 1"),
        (["dataset=coco"], "There is no setting 'dataset' (nearest: datasets"),
        (['datasets=["vectors"]'], "vectors.arrow is of unknown layout"),
    ],
)
def test_refusals(check: Check, tmp_path: Path, words: list[str], sentence: str):
    arrow_files.write(tmp_path / "arrow", "vg")
    write_columns(tmp_path / "arrow" / "vectors.arrow", {"vector": [[1.0]]})
    status, out, err = check(*words)
    assert status == 1 and out == "" and err.startswith("error: ") and sentence in err and err.count("\n") == 0


def test_a_folder_without_files(check: Check, tmp_path: Path):
    (tmp_path / "arrow").mkdir()
    assert check()[2].endswith("it holds no .arrow file; `python run.py prepare` writes them.")


def test_as_a_user_runs_it(run_cli, tmp_path: Path):
    """By several processes, in a process of its own: sheets lie beside the files, and the status says what came of it."""
    folder = tmp_path / "data" / "arrow"
    arrow_files.write(folder, "coco")
    done = run_cli("check_data", "with", "data_root=data/arrow/", "workers=2")
    assert done.code == 0 and done.stdout.endswith("nothing is wrong\n"), done.stderr
    assert "Warning" not in done.stderr and (folder / "check_data_coco.png").is_file()
    columns = files_of("coco")["coco_caption_karpathy_val.arrow"]
    columns["image"][1] = JPEG[:300]
    write_columns(folder / "coco_caption_karpathy_val.arrow", columns)
    done = run_cli("check_data", "with", "data_root=data/arrow/", "workers=2")
    assert done.code == 1 and "Traceback" not in done.stderr and "nothing is wrong" not in done.stdout
    assert "error: coco_caption_karpathy_val.arrow: images that are unreadable (image): 1 (row 1: " in done.stderr
