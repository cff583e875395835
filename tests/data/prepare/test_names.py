"""A split out of a name, whatever word and company it comes in; and names that are nobody's data."""

from __future__ import annotations

import pytest

from renaissance.core.errors import UserError
from renaissance.core.splits import split_of
from renaissance.data.prepare.names import is_system_file


@pytest.mark.parametrize(
    ("split", "names"),
    [
        (
            "train",
            "train Train TRAIN training trn cc3m-train-0000 Train_GCC-training train2014 TrainImages train-00000-of-00041",
        ),
        (
            "val",
            "val valid validation Validation dev DEV cc3m-validation-0000 val2017 mine_val ImagesVal eval minival a.dev",
        ),
        ("test", "test testing Test-Set test2015 sbu_test_0 seg_test"),
        (None, "00000 captions mine contest latest devil trainer evaluate_me détest pretrained Тест seg 1 _"),
    ],
)
def test_a_split_is_read_out_of_a_name(split: str | None, names: str):
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), split)


@pytest.mark.parametrize(
    "name", ["train_val", "trainval", "dev+test", "TrainTest", "trainval2014", "val\x1b[2J\ntrain"]
)
def test_a_name_that_says_two_splits_is_refused(name: str):
    with pytest.raises(UserError, match="it has to be of one split") as refusal:
        split_of(name)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("name", ["test tube", "train station", "dev kit", "Prüfung-test", "bullet train"])
def test_a_class_may_have_the_word_of_a_split_in_its_name(name: str):
    assert split_of(name, whole=True) is None
    assert split_of(name) is not None


@pytest.mark.parametrize("name", ["test_set", "val images", "training-data", "Test2015", "image_folder_val"])
def test_a_folder_of_a_split_may_say_that_it_is_one(name: str):
    assert split_of(name, whole=True) == split_of(name) is not None


def test_what_systems_leave_is_nobodys_data():
    assert all(map(is_system_file, ["._1.jpg", ".DS_Store", ".git", "Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir"]))
    assert not any(map(is_system_file, ["1.jpg", "_1.jpg", "macosx", "train", "thumbs"]))
