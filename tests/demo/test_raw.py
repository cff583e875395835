"""The world as official raw COCO downloads: literal layout, splits that share no scene, colours that survive."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from renaissance.demo import questions, statements
from renaissance.demo.raw import SPLITS, scene_index_of, split_of, write_coco, write_tokenizer
from renaissance.demo.world import COLOURS, captions, make_scene, render, vocabulary

SIZES = {"train": 240, "restval": 20, "val": 30, "test": 40}
FIRST_IMAGE = {
    "filepath": "train2014",
    "sentids": [0, 1, 2, 3, 4],
    "filename": "COCO_train2014_000000000000.jpg",
    "imgid": 0,
    "split": "train",
    "sentences": [
        {
            "tokens": ["the", "circle", "in", "the", "middle", "right", "is", "small", "and", "red"],
            "raw": "the circle in the middle right is small and red",
            "imgid": 0,
            "sentid": 0,
        },
        {
            "tokens": ["the", "middle", "right", "shows", "a", "small", "red", "circle"],
            "raw": "the middle right shows a small red circle",
            "imgid": 0,
            "sentid": 1,
        },
        {
            "tokens": [
                "a",
                "scene",
                "of",
                "one",
                "with",
                "a",
                "small",
                "red",
                "circle",
                "in",
                "the",
                "middle",
                "right",
            ],
            "raw": "a scene of one with a small red circle in the middle right",
            "imgid": 0,
            "sentid": 2,
        },
        {
            "tokens": ["there", "is", "a", "small", "red", "circle", "in", "the", "middle", "right"],
            "raw": "there is a small red circle in the middle right",
            "imgid": 0,
            "sentid": 3,
        },
        {
            "tokens": ["in", "the", "middle", "right", "is", "a", "small", "red", "circle"],
            "raw": "in the middle right is a small red circle",
            "imgid": 0,
            "sentid": 4,
        },
    ],
    "cocoid": 0,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw") / "coco"
    write_coco(root, seed=3, **SIZES)
    return root


@pytest.fixture(scope="module")
def karpathy(root):
    return json.loads((root / "karpathy" / "dataset_coco.json").read_text(encoding="utf-8"))


def test_the_training_images_of_one_object_are_own_captions_too(root, karpathy):
    lines = [json.loads(line) for line in (root / "one_object.jsonl").read_text(encoding="utf-8").splitlines()]
    entries = {f"{image['filepath']}/{image['filename']}": image for image in karpathy["images"]}
    for line in lines:
        image = entries[line["path"]]
        assert image["split"] in ("train", "restval")
        assert line["caption"] == [sentence["raw"] for sentence in image["sentences"]]
        assert len(make_scene(3, scene_index_of(image["filename"])).objects) == 1
    trained = [image for image in karpathy["images"] if image["split"] in ("train", "restval")]
    assert (
        len(lines) == sum(len(make_scene(3, scene_index_of(image["filename"])).objects) == 1 for image in trained) > 50
    )


def test_the_layout_is_that_of_the_official_downloads(root, karpathy):
    assert sorted(path.name for path in root.iterdir()) == ["karpathy", "one_object.jsonl", "train2014", "val2014"]
    assert [path.name for path in (root / "karpathy").iterdir()] == ["dataset_coco.json"]
    for folder, count in (("train2014", 240), ("val2014", 90)):
        names = [path.name for path in (root / folder).iterdir()]
        assert len(names) == count
        assert all(re.fullmatch(rf"COCO_{folder}_\d{{12}}\.jpg", name) for name in names)
    assert list(karpathy) == ["images", "dataset"]
    assert karpathy["dataset"] == "coco"
    assert karpathy["images"][0] == FIRST_IMAGE


def test_every_entry_names_its_picture_and_its_five_sentences(root, karpathy):
    counts = dict.fromkeys(SIZES, 0)
    for number, image in enumerate(karpathy["images"]):
        counts[image["split"]] += 1
        assert image["filepath"] == ("train2014" if image["split"] == "train" else "val2014")
        assert image["filename"] == f"COCO_{image['filepath']}_{image['cocoid']:012d}.jpg"
        assert image["imgid"] == number
        assert image["sentids"] == list(range(5 * number, 5 * number + 5))
        assert [sentence["sentid"] for sentence in image["sentences"]] == image["sentids"]
        assert {sentence["imgid"] for sentence in image["sentences"]} == {number}
        told = [caption.text for caption in captions(make_scene(3, image["cocoid"]))]
        assert [sentence["raw"] for sentence in image["sentences"]] == told
        assert [" ".join(sentence["tokens"]) for sentence in image["sentences"]] == told
        assert (root / image["filepath"] / image["filename"]).is_file()
    assert counts == SIZES


def test_no_scene_is_in_two_splits(karpathy):
    contents = {split: set() for split in SIZES}
    for image in karpathy["images"]:
        contents[image["split"]].add(make_scene(3, image["cocoid"]).content)
    seen = [content for split in contents.values() for content in split]
    assert len(seen) == len(set(seen))
    # With as many scenes drawn without regard to content, some would be in two.
    drawn = [{make_scene(3, index).content for index in some} for some in (range(240), range(240, 330))]
    assert drawn[0] & drawn[1]


def test_splits_take_their_shares():
    placed = [split_of(make_scene(0, index)) for index in range(8000)]
    assert {split: 100 * placed.count(split) / len(placed) for split in SPLITS} == pytest.approx(
        {"train": 80, "restval": 5, "val": 5, "test": 10}, abs=1.5
    )


def test_the_share_of_one_object_scenes_is_exact(tmp_path, karpathy):
    alone = [len(make_scene(3, image["cocoid"]).objects) == 1 for image in karpathy["images"]]
    assert sum(alone) == 84 + 7 + 10 + 14  # .35 of each split, .5 rounded to even
    write_coco(tmp_path, seed=3, train=10, restval=0, val=4, test=0, one_object_share=0.5)
    names = [path.name for folder in ("train2014", "val2014") for path in (tmp_path / folder).iterdir()]
    assert sorted(len(make_scene(3, scene_index_of(name)).objects) == 1 for name in names) == [False] * 7 + [True] * 7


def test_colours_survive_jpeg(root, karpathy):
    palette = np.array(list(COLOURS.values()))
    for image in karpathy["images"]:
        made = make_scene(3, image["cocoid"])
        written = np.asarray(Image.open(root / image["filepath"] / image["filename"])).astype(int)
        assert written.shape == (48, 48, 3)
        drawn = render(made).astype(int)
        assert abs(written - drawn).mean() < 4
        for thing in made.objects:
            x, y, width, height = thing.box
            box = np.s_[y : y + height, x : x + width]
            whole = (drawn[box] == COLOURS[thing.colour]).all(axis=2)
            colour = written[box][whole].mean(axis=0)
            assert list(COLOURS)[int(abs(palette - colour).sum(axis=1).argmin())] == thing.colour
            assert abs(colour - COLOURS[thing.colour]).max() < 15


def test_writing_again_gives_equal_bytes(tmp_path, root):
    write_coco(tmp_path, seed=3, **SIZES)
    names = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert all((tmp_path / name).read_bytes() == (root / name).read_bytes() for name in names)


def test_a_picture_names_its_scene():
    assert scene_index_of("COCO_train2014_000000000009.jpg") == 9
    assert scene_index_of("val2014/COCO_val2014_000000012345.jpg") == 12345


def test_the_tokenizer_is_of_berts_kind_and_knows_every_word(tmp_path):
    from transformers import AutoTokenizer

    write_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert tokenizer.is_fast
    assert type(tokenizer).__name__.startswith("BertTokenizer")
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id) == (0, 1, 4)
    words = set(vocabulary()) | questions.vocabulary() | statements.vocabulary()
    assert len(tokenizer) == 5 + len(words)
    encoded = tokenizer("A small RED ring", "a large [MASK] hexagon")
    tokens = " ".join(tokenizer.convert_ids_to_tokens(encoded["input_ids"]))
    assert tokens == "[CLS] a small red ring [SEP] a large [MASK] [UNK] [SEP]"
    assert encoded["token_type_ids"] == [0] * 6 + [1] * 5
    for index in range(300):
        for caption in captions(make_scene(0, index)):
            ids = tokenizer(caption.text)["input_ids"]
            assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", *caption.text.split(), "[SEP]"]
