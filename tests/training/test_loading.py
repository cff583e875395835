"""What a run opens: splits that are not there, and the first samples of those that are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import small_run
from renaissance.core.errors import UserError
from renaissance.data.limited import LimitedDataset
from renaissance.training.loading import RunData, read_data
from small_tasks import arrows

COCO = {split: small_run.COCO.format(split) for split in ("train", "restval", "val", "test")}


def read(
    folder: Path, *datasets: str, task: str = "itc", test_only: bool = True, limit: int | None = None
) -> tuple[RunData, list[str]]:
    """The data of a run of these data sets, and what the screen notes of them."""
    settings: Any = SimpleNamespace(
        objectives=SimpleNamespace(loss_names={task: 1.0}, negative_group=2, draw_false_text=1, eccv_caption=False),
        data=SimpleNamespace(
            first_datasets=(),
            datasets=datasets,
            data_root=str(folder),
            allow_missing_shards=False,
            eval_limit=limit,
            image_column=None,
            caption_column=None,
        ),
        run=SimpleNamespace(test_only=test_only, seed=0),
    )
    resolved: Any = SimpleNamespace(settings=settings, tokenizer=None, notes=[], labels={})
    return read_data(resolved), resolved.notes


def files(data: RunData) -> dict[str, list[str]]:
    return {split: [file.file for file in each.describe()] for split, each in data.samples.items() if each is not None}


@pytest.mark.parametrize("task", ["itc", "irtr"])
@pytest.mark.parametrize("there", [("val", "test"), ("test",), ("val",)])
def test_an_evaluation_reads_what_is_there_and_names_what_is_not(there: tuple[str, ...], task: str, tmp_path: Path):
    for split in there:
        small_run.write_pairs(tmp_path / COCO[split], 3)
    data, notes = read(tmp_path, "coco", task=task)
    assert files(data) == {split: [COCO[split]] for split in there} and data.evaluated == there
    absent = [f"{split} of coco" for split in ("val", "test") if split not in there]
    assert notes == ([f"not in data_root={tmp_path}, so not evaluated: {absent[0]}"] if absent else [])


def test_of_a_mix_it_reads_the_data_sets_that_have_the_split(tmp_path: Path):
    """vg has none; of own captions every split may be there."""
    for file in (COCO["test"], "mine_val.arrow", "vg.arrow"):
        small_run.write_pairs(tmp_path / file, 3)
    data, notes = read(tmp_path, "coco", "vg", "mine")
    assert files(data) == {"val": ["mine_val.arrow"], "test": [COCO["test"]]}
    assert notes == [f"not in data_root={tmp_path}, so not evaluated: val of coco, test of mine"]
    with pytest.raises(UserError, match=r"Data set 'coco' needs coco_caption_karpathy_train.arrow"):
        read(tmp_path, "coco", test_only=False)


@pytest.mark.parametrize(
    ("dataset", "sentence"), [("f30k", "needs f30k_caption_karpathy_val"), ("minee", "needs minee")]
)
def test_where_nothing_is_there_it_is_said_what_was_expected(dataset: str, sentence: str, tmp_path: Path):
    small_run.write_pairs(tmp_path / COCO["test"], 3)
    with pytest.raises(UserError, match=sentence):
        read(tmp_path, dataset)


def test_an_older_layout_lacks_nothing_and_hidden_splits_are_splits(tmp_path: Path):
    data, notes = read(arrows("snli", tmp_path), "snli", task="snli")
    assert data.evaluated == ("val", "test") and notes == []
    (tmp_path / "snli" / "arrow" / "snli_dev.arrow").unlink()
    data, notes = read(tmp_path / "snli" / "arrow", "snli", task="snli")
    assert data.evaluated == ("test",) and "so not evaluated: val of snli" in notes[0]


def test_a_limit_takes_the_first_samples_or_pictures_of_evaluation_splits_alone(tmp_path: Path):
    for split, pictures in (("train", 4), ("restval", 2), ("val", 3), ("test", 5)):
        small_run.write_pairs(tmp_path / COCO[split], pictures, captions=2)
    data, _ = read(tmp_path, "coco", test_only=False, limit=7)
    assert [len(data.samples[split]) for split in ("train", "val", "test")] == [12, 6, 7]
    assert not isinstance(data.samples["val"], LimitedDataset)  # it has no more than the limit
    part, (whole, _) = data.samples["test"], read(tmp_path, "coco", test_only=False)
    assert [part[index].text for index in range(7)] == [whole.samples["test"][index].text for index in range(7)]
    assert part.fingerprint() == whole.samples["test"].fingerprint() and part.describe()[0].samples == 7
    assert str(part) == "eval_limit=7: the first 7 of 10 samples"
    with pytest.raises(IndexError):
        part[7]
    data, _ = read(tmp_path, "coco", task="irtr", limit=3)
    assert [len(data.samples[split]) for split in ("val", "test")] == [6, 6]
    assert data.samples["test"].rows().tolist() == [0, 0, 1, 1, 2, 2]
