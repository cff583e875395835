"""Samples of every data set, from files as the old programs and others wrote them; what such files must not be."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from foreign_files import FOREIGN, TEST_QUESTIONS, WAYS, by_pandas, write

from renaissance.core.errors import UserError
from renaissance.data.arrow import schema_metadata
from renaissance.data.dataset_specs import BOXES, CLASSES, DATASETS, ENTAILMENT, IMAGE_PAIRS, METADATA_KEY, QUESTIONS
from renaissance.data.datasets import open_pairs, open_samples, splits_of
from renaissance.data.vocabulary import vqa_labels


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "arrow").mkdir()
    return tmp_path / "arrow"


def files_of(name: str, split: str = "train") -> list[str]:
    splits = DATASETS[name].splits
    return [file.format(shard=0, name=name) for file in splits[split if split in splits else name]]


def refusal(call: Callable[..., Any], *args: Any, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        call(*args, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def said(**content: Any) -> dict[bytes, bytes]:
    return {METADATA_KEY: json.dumps(content).encode()}


# -- every data set, as it lies on people's disks --------------------------------------------------------------------


@pytest.mark.parametrize("rows_per_batch", [None, 2])
@pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])
@pytest.mark.parametrize("name", FOREIGN)
def test_every_data_set_gives_what_was_written(name: str, way: Callable, rows_per_batch: int | None, folder: Path):
    foreign, expected = FOREIGN[name], []
    for file in files_of(name):
        write(folder / file, way(foreign.rows), rows_per_batch)
        expected += [(file, *sample) for sample in foreign.samples()]
    split = next(iter(DATASETS[name].splits))
    data = open_samples(name, split, folder, sample_kind=DATASETS[name].sample_kind)
    assert len(data) == len(expected)
    for number, (file, row, images, values) in enumerate(expected):
        sample = data[number]
        assert (sample.id, sample.row, sample.images) == (number, row, images)
        assert sample.where == f"{file} row {row}"
        written = {key: value for key, value in sample.values.items() if value is not None}
        assert written == values
        assert set(sample.values) | set(foreign.pictures) == {column.name for column in DATASETS[name].columns}


def test_every_layout_is_tried():
    assert {DATASETS[name].columns for name in FOREIGN} == {row.columns for row in DATASETS.values()}


def test_hidden_answers_are_none_and_nothing_to_train_on(folder: Path):
    write(folder / "vqav2_test.arrow", by_pandas(TEST_QUESTIONS), 3)
    data = open_samples("vqa", "test", folder, sample_kind=QUESTIONS)
    assert [data[n].values["question_id"] for n in range(len(data))] == [
        each for row in TEST_QUESTIONS for each in row["question_id"]
    ]
    assert data[2].values["answers"] is data[2].values["answer_labels"] is data[2].values["raw_answers"] is None
    assert data.columns == ("image", "questions", "image_id", "question_id", "split")
    for file in files_of("vqa"):
        write(folder / file, by_pandas(TEST_QUESTIONS), 3)
    message = refusal(open_samples, "vqa", "train", folder, sample_kind=QUESTIONS)
    assert "its answers, answer_labels, answer_scores are empty in every row" in message


def test_one_value_stands_for_a_list_of_one(folder: Path):
    rows = [{"image": b"x", "sentences": "the\tone ", "bboxes": [[0, 0, 1, 2]], "labels": 0}]
    write(folder / "refcocog_umd_val.arrow", by_pandas(rows))
    assert open_samples("refcocog", "val", folder, sample_kind=BOXES)[0].values["sentences"] == "the one"
    one = {name: value[0] for name, value in FOREIGN["vqa"].rows[0].items() if isinstance(value, list)}
    one["answers"], one["answer_labels"] = one["answers"][0], one["answer_labels"][0]
    write(folder / "vqav2_test.arrow", by_pandas([FOREIGN["vqa"].rows[0] | one]))
    sample = open_samples("vqa", "test", folder, sample_kind=QUESTIONS)[0]
    assert [sample.values[name] for name in one] == ["What is 0 of 0?", ["answer 0"], [0], [0.25], 0]


def test_a_data_set_travels_to_a_worker(folder: Path):
    for file in files_of("vqa"):
        write(folder / file, by_pandas(FOREIGN["vqa"].rows))
    data = open_samples("vqa", "train", folder, sample_kind=QUESTIONS)
    first = data[0]
    pickled = pickle.dumps(data)
    assert len(pickled) < 5_000
    assert pickle.loads(pickled)[0] == first
    assert data.describe()[0] == ("vqa", "vqav2_train.arrow", 7, 13)
    assert set(data.fingerprint()) == {"vqav2_train.arrow", "vqav2_trainable_val.arrow"}
    for outside in (-1, len(data)):
        with pytest.raises(IndexError):
            data[outside]


# -- which data set, which file --------------------------------------------------------------------------------------

SPLIT_FILES = {
    "vqa": {
        "train": ["vqav2_train", "vqav2_trainable_val"],
        "val": ["vqav2_rest_val"],
        "test-dev": ["vqav2_test-dev"],
        "test": ["vqav2_test"],
    },
    "nlvr2": {
        "train": ["nlvr2_train"],
        "val": ["nlvr2_dev"],
        "test": ["nlvr2_test1"],
        **{f"{part}_{split}": [f"nlvr2_{part}_{split}"] for part in ("balanced", "unbalanced") for split in ("dev", "test1")},
    },
    "snli": {"train": ["snli_train"], "val": ["snli_dev"], "test": ["snli_test"]},
    "refcoco+": {split: [f"refcoco+_unc_{split}"] for split in ("train", "val", "testA", "testB")},
    "refcocog": {split: [f"refcocog_umd_{split}"] for split in ("train", "val", "test")},
    "refcocog_google": {split: [f"refcocog_google_{split}"] for split in ("train", "val")},
}  # fmt: skip


@pytest.mark.parametrize("name", SPLIT_FILES)
def test_the_files_of_every_split(name: str, folder: Path):
    """The literal table of the formats; files beside those of the splits are in none."""
    for file in [*(file for files in SPLIT_FILES[name].values() for file in files), "vqav2_val"]:
        write(folder / f"{file}.arrow", by_pandas(FOREIGN[name].rows))
    sample_kind = DATASETS[name].sample_kind
    assert set(splits_of(name, folder, sample_kind=sample_kind)) == set(SPLIT_FILES[name])
    for split, files in SPLIT_FILES[name].items():
        found = [file.file for file in open_samples(name, split, folder, sample_kind=sample_kind).describe()]
        assert found == [f"{file}.arrow" for file in files]


def test_a_name_must_be_of_the_kind_that_is_wanted(folder: Path):
    assert (
        "datasets names 'vqa', which holds questions, not captions; give coco, f30k, vg, gcc, sbu, or the name of"
        in (refusal(open_pairs, ["coco", "vqa"], "train", folder))
    )
    assert "'coco', which holds captions, not questions; give vqa." in (
        refusal(open_samples, "coco", "train", folder, sample_kind=QUESTIONS)
    )
    assert "'refcocoo' (nearest: refcoco, refcocog, refcoco+), which holds no boxes" in (
        refusal(open_samples, "refcocoo", "train", folder, sample_kind=BOXES)
    )


def test_a_split_that_is_not_there(folder: Path):
    write(folder / "snli_train.arrow", by_pandas(FOREIGN["snli"].rows))
    message = refusal(open_samples, "snli", "testA", folder, sample_kind=ENTAILMENT)
    assert f"'snli' has no split 'testA' in data_root='{folder}'; those there are: train." in message
    assert "needs snli_dev.arrow" in refusal(open_samples, "snli", "val", folder, sample_kind=ENTAILMENT)


def test_own_data_need_a_training_file_for_training_alone(folder: Path):
    write(folder / "mine_val.arrow", by_pandas(FOREIGN["captions"].rows))
    write(folder / "birds_test.arrow", by_pandas(FOREIGN["images"].rows))
    assert len(open_pairs(["mine"], "val", folder)) == 6
    assert open_pairs(["mine"], "test", folder) is None
    assert "needs mine_train.arrow or mine.arrow" in refusal(open_pairs, ["mine"], "train", folder)
    assert "files there are: birds_test.arrow, mine_val.arrow" in refusal(open_pairs, ["nine"], "val", folder)
    assert splits_of("birds", folder, sample_kind=CLASSES) == ("test",)
    assert open_samples("birds", "test", folder, sample_kind=CLASSES)[1].values["label"] == 1


def test_refcoco_under_its_older_names(folder: Path):
    for split in ("train", "val", "test"):
        write(folder / f"refcoco_unc_{split}.arrow", by_pandas(FOREIGN["refcoco"].rows))
    for name, older in (("refcoco+", ("refcoco_unc_val.arrow",)), ("refcoco", ())):
        assert splits_of(name, folder, sample_kind=BOXES) == ("train", "val", "test")
        data = open_samples(name, "val", folder, sample_kind=BOXES)
        assert [file.file for file in data.describe()] == ["refcoco_unc_val.arrow"]
        assert data.older_files == older
    assert open_samples("refcoco", "test", folder, sample_kind=BOXES).older_files == ("refcoco_unc_test.arrow",)
    for split in ("val", "testA"):
        write(folder / f"refcoco+_unc_{split}.arrow", by_pandas(FOREIGN["refcoco"].rows))
    assert open_samples("refcoco+", "val", folder, sample_kind=BOXES).older_files == ()
    assert splits_of("refcoco+", folder, sample_kind=BOXES) == ("train", "val", "testA", "test")


def test_an_older_name_of_what_we_wrote_for_another_data_set_is_not_taken(folder: Path):
    ours = said(dataset="refcoco", split="train")
    path = write(folder / "refcoco_unc_train.arrow", by_pandas(FOREIGN["refcoco"].rows), metadata=ours)
    assert schema_metadata(path) == {"dataset": "refcoco", "split": "train"}
    message = refusal(open_samples, "refcoco+", "train", folder, sample_kind=BOXES)
    assert "needs refcoco+_unc_train.arrow in data_root=" in message
    assert open_samples("refcoco", "train", folder, sample_kind=BOXES).schema_metadata() == [schema_metadata(path)]
    with pytest.raises(UserError, match=r"schema metadata 'renaissance' of '.*b\.arrow' cannot be read as JSON"):
        schema_metadata(write(folder / "b.arrow", by_pandas(FOREIGN["refcoco"].rows), metadata={METADATA_KEY: b"{"}))


# -- values that do not belong together ------------------------------------------------------------------------------

BROKEN = {
    "snli lists of other lengths": (
        ("snli", ENTAILMENT, {"labels": [0, 1, 2]}),
        "row 3 has 3 in 'labels'; expected as many entries as in 'sentences'",
    ),
    "snli without a hypothesis": (
        ("snli", ENTAILMENT, {"sentences": [["premise"]]}),
        "row 3 has 1 in 'sentences'; expected 2 values in each entry:",
    ),
    "refcoco with half a box": (
        ("refcoco", BOXES, {"bboxes": [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0]]}),
        "row 3 has 2 in 'bboxes'; expected 4 values in each entry:",
    ),
    "refcoco without a label": (("refcoco", BOXES, {"labels": None}), "column 'labels' is double"),
    "refcoco with a label that is no box": (
        ("refcoco", BOXES, {"bboxes": [[0.0] * 4] * 2, "labels": 2}),
        "row 3 has 2 in 'labels'; expected a place in 'bboxes', counted from 0:",
    ),
    "refcoco with a label below 0": (("refcoco", BOXES, {"labels": -1}), "row 3 has -1 in 'labels'; expected a place"),
    "refcoco without boxes": (("refcoco", BOXES, {"bboxes": []}), "row 3 has 1 in 'labels'; expected a place in 'bboxes'"),
    "a box with a hole": (("refcoco", BOXES, {"bboxes": [[1.0, None, 3.0, 4.0]]}), "row 3 has null in 'bboxes'; expected"),
    "vqa with a label too many": (
        ("vqa", QUESTIONS, {"answer_labels": [[1, 2]]}),
        "row 3 has 2 in 'answer_labels'; expected as many values in each entry as in 'answers':",
    ),
    "vqa with null for a label": (
        ("vqa", QUESTIONS, {"answer_labels": [[None]]}),
        "row 3 has null in 'answer_labels'; expected a number",
    ),
    "vqa without a row's answers": (("vqa", QUESTIONS, {"answers": None}), "row 3 has 0 in 'answers'; expected as many entries"),
    "snli with a label that is no class": (("snli", ENTAILMENT, {"labels": [3]}), "row 3 has 3 in 'labels'; expected 0 to 2:"),
    "a box that is not finite": (("refcoco", BOXES, {"bboxes": [[1.0, float("inf"), 3.0, 4.0]] * 3}), "row 3 has inf in"),
    "numbers for words": (("nlvr2", IMAGE_PAIRS, None), "column 'answers' is list<item: int64>; expected list<string>"),
    "no boxes": (("refcoco", BOXES, {}), "needs one column 'bboxes'"),
}  # fmt: skip


def test_refuses_a_number_that_leads_nowhere(folder: Path):
    """A label without a name would end a run, or its process on an accelerator, when its sample comes up."""
    rows = [dict(row) for row in FOREIGN["vqa"].rows]
    names = {METADATA_KEY: json.dumps({"labels": ["yes", "no", "2"]})}  # the foreign labels are 0 to 4
    for file in files_of("vqa"):
        write(folder / file, by_pandas(rows), 2, names)
    message = refusal(open_samples, "vqa", "train", folder, sample_kind=QUESTIONS)
    assert (
        f"'{folder / files_of('vqa')[0]}' row 2 has 3 in 'answer_labels'; expected 0 to 2, which have label names"
        in message
    )


@pytest.mark.parametrize("rows_per_batch", [None, 2])
@pytest.mark.parametrize("case", BROKEN)
def test_refuses_values_that_do_not_belong_together(case: str, rows_per_batch: int | None, folder: Path):
    (name, sample_kind, change), sentence = BROKEN[case]
    rows = [dict(row) for row in FOREIGN[name].rows]
    if change is None:
        rows = [row | {"answers": [1] * len(row["answers"])} for row in rows]
    elif change:
        rows[3] |= change
    else:
        rows = [{key: value for key, value in row.items() if key != "bboxes"} for row in rows]
    for file in files_of(name):
        write(folder / file, by_pandas(rows), rows_per_batch)
    message = refusal(open_samples, name, "train", folder, sample_kind=sample_kind)
    assert sentence in message
    assert str(folder / files_of(name)[0]) in message


def test_null_texts_are_empty(folder: Path):
    rows = [
        {"image": b"x", "label": 0, "image_id": None, "split": None},
        {"image": b"x", "label": 1, "image_id": "a", "split": None},
    ]
    write(folder / "mine.arrow", by_pandas(rows))
    assert open_samples("mine", "train", folder, sample_kind=CLASSES)[0].values == {
        "label": 0,
        "image_id": "",
        "split": None,
    }


# -- the answers of VQAv2 --------------------------------------------------------------------------------------------


def write_questions(folder: Path, file: str, pairs: list[tuple[str, int]], labels: list[str] | None = None) -> None:
    row = FOREIGN["vqa"].rows[0]
    answers = {"answers": [[answer] for answer, _ in pairs], "answer_labels": [[label] for _, label in pairs]}
    same = {name: row[name] * len(pairs) for name in ("questions", "question_id", "answer_scores")}
    write(folder / file, by_pandas([row | same | answers]), metadata=said(labels=labels) if labels else None)


def test_labels_of_old_files_are_put_together(folder: Path):
    write_questions(folder, "vqav2_train.arrow", [("no", 1), ("yes", 0), ("no", 1)])
    write_questions(folder, "vqav2_trainable_val.arrow", [("red", 3)])
    assert "no answer with label 2 of 0 to 3" in refusal(vqa_labels, folder)
    known = ["yes", "no", "2", "red", "rare"]  # as a checkpoint has them: what these files do not use is filled in
    assert vqa_labels(folder, known) == known
    write_questions(folder, "vqav2_rest_val.arrow", [("2", 2), ("yes", 0)])
    assert vqa_labels(folder) == ["yes", "no", "2", "red"]
    write(folder / "vqav2_test.arrow", by_pandas(TEST_QUESTIONS))
    assert vqa_labels(folder) == ["yes", "no", "2", "red"]
    write_questions(folder, "vqav2_rest_val.arrow", [("2", 2), ("yes", 1)])
    assert "has the answer 'yes' for label 1, which was 'no' before" in refusal(vqa_labels, folder)


def test_labels_of_our_files_are_named(folder: Path):
    assert vqa_labels(folder) is None
    write_questions(folder, "vqav2_train.arrow", [("no", 1)], ["yes", "no", "rare"])
    assert vqa_labels(folder) == ["yes", "no", "rare"]
    write_questions(folder, "vqav2_rest_val.arrow", [("no", 0)])  # of an older preparation
    assert "has the answer 'no' for label 0, which was 'yes'" in refusal(vqa_labels, folder)


# -- damage, memory, what is loaded ----------------------------------------------------------------------------------

FLIP = """
import random, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import numpy as np
import pyarrow as pa
from foreign_files import FOREIGN, by_pandas, large, write
from renaissance.data.arrow import ArrowFile, check_file
from renaissance.core.errors import UserError
from renaissance.data.dataset_specs import DATASETS

def offsets_of(array):
    if pa.types.is_fixed_size_list(array.type) or not hasattr(array.type, "value_type"):
        return [array.buffers()[1]] if len(array.buffers()) == 3 else []
    return [array.buffers()[1], *offsets_of(array.values)]

rng, count, refused, path = random.Random(0), 0, 0, {path!r}
for name, row in ((name, DATASETS[name]) for name in FOREIGN):
    for way in (by_pandas, large):
        write(Path(path), way(FOREIGN[name].rows), 4)
        with pa.memory_map(path) as mapped:
            whole = mapped.read_buffer()
        content = whole.to_pybytes()
        batch = pa.ipc.open_file(pa.BufferReader(whole)).get_batch(1)
        columns = [column for column in row.columns if column.name in batch.schema.names]
        for column in columns:
            width = 8 if "large" in str(batch[column.name].type) else 4
            for buffer in offsets_of(batch[column.name]):
                true = np.frombuffer(buffer, np.int64 if width == 8 else np.int32)
                for place in range(len(true)):
                    for wrong in (-1, 2**30, 2**31 - 1, rng.randrange(int(true.max()) + 1)):
                        if wrong == true[place]:
                            continue
                        start = buffer.address - whole.address + place * width
                        flipped = wrong.to_bytes(width, "little", signed=True)
                        count += 1
                        damaged = f"{{path}}{{count}}"
                        Path(damaged).write_bytes(content[:start] + flipped + content[start + width:])
                        # An offset may move within its neighbours and leave a whole file: then it can be read.
                        wild = wrong < 0 or wrong > 2**20
                        try:
                            check_file(damaged, columns, row.samples)
                        except UserError:
                            refused += wild
                        else:
                            assert not wild, (name, column.name, place, wrong)
                            file = ArrowFile(damaged, columns, row.samples)
                            of_rows = {{each.name: [file.value(each.name, n) for n in range(7)] for each in columns}}
                            for number in range(sum(map(len, of_rows[row.samples])) if row.samples else 7):
                                found, entry = file.locate(number)
                                for each in columns:
                                    if each.per_sample:
                                        of_row = of_rows[each.name][found]
                                        assert file.value(each.name, found, entry) == of_row[entry], (name, place, wrong)
                        Path(damaged).unlink()
print(count, refused)
"""


def in_own_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_flipped_offset_is_found_or_harmless(tmp_path: Path):
    """Offsets of every kind of column; reading through a wrong one would end the process."""
    code = FLIP.format(tests=str(Path(__file__).parent), path=str(tmp_path / "a.arrow"))
    count, refused = map(int, in_own_process(code).split())
    assert refused > count / 2 > 500


EPOCH = """
from renaissance.data.datasets import open_pairs, open_samples

def private():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("RssAnon")]
    return int(line.split()[1])

for data in (open_pairs(["mine"], "train", {folder!r}), open_samples("mine", "train", {folder!r}, sample_kind="captions")):
    for number in range(5000):
        data[number]
    before = private()
    for number in range(len(data)):
        data[number]
    print(len(data), private() - before)
"""


def test_memory_does_not_grow_over_an_epoch(folder: Path):
    if not Path("/proc/self/status").exists():
        pytest.skip("reads RssAnon in /proc")
    rows = 50_000
    captions = [[f"a long caption of image number {row}, " + "so that it would be noticed " * 4] for row in range(rows)]
    table = pa.table({"image": [b"x" * 100 + str(row).encode() for row in range(rows)], "caption": captions})
    write(folder / "mine.arrow", table, 1000)
    out = in_own_process(EPOCH.format(folder=str(folder)))
    for line in out.splitlines():
        count, grown = map(int, line.split())
        assert count == rows
        assert grown < 3_000  # kB; a string kept for each caption would be 10 MB


def test_reading_loads_no_torch():
    """`check_data` reads with these, and answers at once."""
    rooms = ", ".join(
        f"renaissance.data.{room}" for room in ("datasets", "pairs", "samples", "vocabulary", "file_cache")
    )
    code = (
        f"import sys, {rooms}; print(sorted({{'torch', 'transformers', 'torchvision', 'pandas'}} & set(sys.modules)))"
    )
    assert in_own_process(code) == "[]\n"
