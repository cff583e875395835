"""The world as raw downloads of the downstream tasks: the real writers convert them, and nothing held out is trained on."""

from __future__ import annotations

import io
import re
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.prepare.raw_files import read_rows
from renaissance.core.errors import UserError
from renaissance.data.dataset_specs import BOXES, CAPTIONS, CLASSES, ENTAILMENT, IMAGE_PAIRS, QUESTIONS
from renaissance.data.datasets import open_samples, splits_of
from renaissance.data.glue import GlueDataset, glue_splits
from renaissance.demo import raw_tasks
from renaissance.demo.finetune import TASKS, blocks, selected_tasks, write_tasks
from renaissance.demo.questions import questions
from renaissance.demo.raw import split_of
from renaissance.demo.raw_tasks import Sizes
from renaissance.demo.statements import entailments, expressions, sentence, sentence_pair, shows
from renaissance.demo.world import SHAPES, Scene, captions, make_scene, render

Scenes = dict[bytes, Scene]
TRAINED = ("train", "restval")
SIZES = {
    "vqa": Sizes(40, 0, 4),
    "nlvr2": Sizes(6, 2, 3),
    "pairs": Sizes(12, 1, 6),
    "ref": Sizes(20, 4, 40),
    "classes": Sizes(20, 5, 10),
}
OFFERS = {
    "vqa": QUESTIONS,
    "nlvr2": IMAGE_PAIRS,
    "snli": ENTAILMENT,
    "refcoco": BOXES,
    "f30k": CAPTIONS,
    "images": CLASSES,
}
NAMES = {"ref": "refcoco", "irtr": "f30k", "classes": "images"}
OBJECTS = {"refcoco": lambda index: 2 if index % 4 == 0 else 3, "images": lambda index: 1}


def write(name: str, folder: Path, seed: int = 0) -> Path:
    """Writes the raw download of a task of the demo; returns where it is."""
    raw = folder / "raw" / name
    TASKS[name].write(raw, seed, SIZES.get(name, Sizes(20, 4, 6)))
    return raw


@pytest.fixture(scope="module")
def arrows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    for name, task in TASKS.items():
        raw = write(name, folder)
        if task.make:
            task.make(raw, folder, workers=1)
    return folder


def scene_of(name: str, image_id: object) -> Scene:
    """The scene that an image of this data set shows, by its id or file name."""
    index = int(re.search(r"(\d+)(\.\w+)?$", str(image_id))[1])
    return make_scene(0, index, objects=OBJECTS.get(name, lambda index: None)(index))


def told(name: str, values: dict[str, Any], made: Scene) -> tuple[list[Any], list[Any]]:
    """What a file tells of a scene, and all that may be told of it."""
    match name:
        case "vqa":
            found = [values[key] for key in ("questions", "raw_answers", "answer_type", "question_type")]
            return found, [[a.text, list(a.answers), a.answer_type, a.question_type] for a in questions(made)]
        case "snli":  # contradiction, neutral, entailment, as FORMATS numbers them
            labels = {"contradiction": 0, "neutral": 1, "entailment": 2}
            found = [*values["sentences"], values["labels"]]
            return found, [[a.premise, a.hypothesis, labels[a.label]] for a in entailments(made)]
        case "refcoco":
            assert sorted(map(tuple, values["bboxes"])) == sorted(thing.box for thing in made.objects)
            found = [values["sentences"], tuple(values["bboxes"][values["labels"]])]
            return found, [[text, thing.box] for thing, texts in expressions(made) for text in texts]
        case "f30k":
            return [values["caption"]], [[caption.text] for caption in captions(made)]
        case "images":
            return [values["label"]], [[sorted(SHAPES).index(made.objects[0].shape)]]
    raise AssertionError(name)


@pytest.mark.parametrize("name", [name for name in OFFERS if name != "nlvr2"])
def test_the_readers_read_what_the_world_tells(arrows: Path, name: str):
    """Each sample is one of its scene's, once, beside the image of that scene, and none of the scene's is missing."""
    for split in splits_of(name, arrows, sample_kind=OFFERS[name]):
        samples = open_samples(name, split, arrows, sample_kind=OFFERS[name])
        missing: dict[int, list[Any]] = {}
        for sample in (samples[place] for place in range(len(samples))):
            made = scene_of(name, sample.values["image_id"])
            found, possible = told(name, sample.values, made)
            missing.setdefault(made.index, possible).remove(found)
            [picture] = sample.images
            seen = np.asarray(Image.open(io.BytesIO(picture))).astype(int)
            assert seen.shape == (48, 48, 3) and abs(seen - render(made)).mean() < 4  # as far as JPEG is exact
        assert len(missing) > 3
        # A question none of whose answers is a label, which needs nine of it, is left out of training.
        assert (name, split) == ("vqa", "train") or not any(missing.values())


def test_pairs_of_pictures_are_grouped_as_the_official_ones_and_labelled_right(arrows: Path, scenes_of_pixels: Scenes):
    """Four pairs of a sentence differ in the third part of their identifiers; the label is found from the pixels."""
    for split, official, count in (("train", "train", 6), ("val", "dev", 2), ("test", "test1", 3)):
        samples = open_samples("nlvr2", split, arrows, sample_kind=IMAGE_PAIRS)
        groups: defaultdict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        for sample in (samples[place] for place in range(len(samples))):
            part, number, pair, place = sample.values["identifiers"].split("-")
            assert part == official and place == "0" and sample.values["identifier"] == f"{part}-{number}-{pair}"
            assert sample.values["questions"] == sentence(0, int(number)).text
            shown = [scenes_of_pixels[Image.open(io.BytesIO(picture)).tobytes()] for picture in sample.images]
            said = sentence(0, int(number))
            there = tuple(shows(scene, said.colour, said.shape) for scene in shown)
            assert sample.values["answers"] == str(said.fits(there))
            groups[number, place].append((pair, sample.values["answers"]))
        assert len(groups) == count
        for group in groups.values():
            assert sorted(pair for pair, _ in group) == ["0", "1", "2", "3"]
            assert sorted(answer for _, answer in group) == ["False", "False", "True", "True"]


def test_sentence_pairs_are_read_as_they_lie(arrows: Path):
    root = arrows / "raw" / "pairs"
    assert glue_splits("mrpc", root) == ("train", "val")
    for split, of_world, count in (("train", TRAINED, 12), ("val", ("test",), 6)):
        samples = GlueDataset(root, "mrpc", split, training=split == "train")
        drawn = (made for made in (make_scene(0, index) for index in range(300)) if split_of(made) in of_world)
        expected = [(pair.first, pair.second, int(pair.same)) for pair in map(sentence_pair, islice(drawn, count))]
        found = (samples[place].values for place in range(len(samples)))
        assert [(values["text"], values["second"], values["label"]) for values in found] == expected


def test_chance_among_boxes_is_low_and_classes_are_equal(arrows: Path):
    shares = []
    for split in ("testA", "testB"):
        samples = open_samples("refcoco", split, arrows, sample_kind=BOXES)
        shares += [1 / len(samples[place].values["bboxes"]) for place in range(len(samples))]
    assert len(shares) > 200 and sum(shares) / len(shares) <= 0.4
    for split, count in (("train", 4), ("val", 1), ("test", 2)):
        samples = open_samples("images", split, arrows, sample_kind=CLASSES)
        labels = Counter(samples[place].values["label"] for place in range(len(samples)))
        assert labels == dict.fromkeys(range(5), count)


@pytest.mark.parametrize("name", TASKS)
def test_writing_again_gives_equal_bytes_and_another_seed_others(arrows: Path, tmp_path: Path, name: str):
    first, again, other = (
        {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (arrows / "raw" / name, write(name, tmp_path / "again"), write(name, tmp_path / "other", seed=1))
    )
    assert first == again and first != other


FILES = {
    "vqav2_train": TRAINED, "vqav2_trainable_val": TRAINED, "vqav2_rest_val": ("test",),
    "nlvr2_train": TRAINED, "nlvr2_dev": ("val",), "nlvr2_test1": ("test",),
    "snli_train": TRAINED, "snli_dev": ("val",), "snli_test": ("test",),
    "refcoco_unc_train": TRAINED, "refcoco_unc_val": ("val",),
    "refcoco_unc_testA": ("test",), "refcoco_unc_testB": ("test",),
    "f30k_caption_karpathy_train": TRAINED, "f30k_caption_karpathy_val": ("val",),
    "f30k_caption_karpathy_test": ("test",),
    "images_train": TRAINED, "images_val": ("val",), "images_test": ("test",),
}  # fmt: skip
"""Arrow files with Karpathy's splits of the scenes that they may show."""


def splits_shown(file: Path, scenes_of_pixels: Scenes) -> set[str]:
    """The splits of the scenes that an arrow file shows, by what captions tell of them, the same as in pretraining."""
    rows = read_rows(file)
    if file.name.startswith("nlvr2"):  # its names do not say which scene they show, but its images are exact
        pictures = [row[f"image_{side}"] for row in rows for side in (0, 1)]
        return {split_of(scenes_of_pixels[Image.open(io.BytesIO(picture)).tobytes()]) for picture in pictures}
    return {split_of(scene_of(file.name.partition("_")[0], row["image_id"])) for row in rows}


@pytest.fixture(scope="module")
def scenes_of_pixels() -> Scenes:
    """What an image without loss shows. Of the scenes that are trained on the first ones suffice."""
    made = (make_scene(0, index) for index in range(10000))
    return {render(each).tobytes(): each for each in made if each.index < 600 or split_of(each) not in TRAINED}


@pytest.mark.parametrize("file", FILES)
def test_what_is_held_out_is_not_trained_on(arrows: Path, scenes_of_pixels: Scenes, file: str):
    shown = splits_shown(arrows / f"{file}.arrow", scenes_of_pixels)
    assert shown and shown <= set(FILES[file])


def test_vqa_keeps_its_test_scenes_for_evaluation(tmp_path: Path):
    with pytest.raises(ValueError, match="at least 38 train scenes"):
        raw_tasks.write_vqa(tmp_path, 0, Sizes(37, 0, 4))


def test_each_run_waits_once_and_a_blind_one_comes_before_what_it_is_beside():
    waiting = blocks(list(TASKS), 1000)
    runs = [(run.task, run.kind) for block in waiting for run in block]
    assert sorted(runs) == sorted((name, kind) for name, task in TASKS.items() for kind in task.kinds)
    for block in waiting:
        kinds = [run.kind for run in block]
        assert kinds == ["blind", "two_tower"] if len(block) > 1 else "blind" not in kinds
    assert {run.steps for block in blocks(["vqa", "ref"], 1000) for run in block} == {700, 150}
    assert [run.steps for run in blocks(["ref"], 1)[0]] == [1]


@pytest.mark.parametrize("given", ["vqa,nlvr", ["vgq"]])
def test_a_task_that_is_not_there_is_refused(given: object):
    with pytest.raises(UserError, match="the demo has no task"):
        selected_tasks(given)
    assert (
        selected_tasks("vqa,ref,vqa") == ["vqa", "ref"]
        and selected_tasks(None) == []
        and selected_tasks("all") == list(TASKS)
    )


def test_writing_another_world_leaves_nothing_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Class folders are read whole, so an image that stayed would be one of the new world."""
    monkeypatch.setitem(TASKS, "classes", TASKS["classes"]._replace(sizes=Sizes(12, 2, 2)))
    for seed in (0, 1):
        write_tasks(tmp_path, seed, ["classes"])
    raw_tasks.write_classes(tmp_path / "second", 1, Sizes(12, 2, 2))
    again, second = (
        {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.png")}
        for root in (tmp_path / "raw_tasks" / "classes", tmp_path / "second")
    )
    assert again == second and len(again) == 16
