"""RefCOCO, RefCOCO+ and RefCOCOg: refs pickles and COCO instances in, one row a reference out."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from data.prepare import raw_refcoco
from data.prepare.raw_files import Payload, bad_pictures, odd_pictures, read_rows, refused
from renaissance.data.dataset_specs import DATASETS, METADATA_KEY
from renaissance.data.prepare.refcoco import make_arrow

refusal = partial(refused, make_arrow)


def expected_rows(root: Path, references: list[dict], instances: dict, split: str) -> list[dict]:
    """What a file has to hold, worked out from the raw lists."""
    rows = []
    for reference in (each for each in references if each["split"] == split):
        boxes = [each for each in instances["annotations"] if each["image_id"] == reference["image_id"]]
        boxes.sort(key=lambda each: each["id"])
        file = root / raw_refcoco.FOLDER / raw_refcoco.picture_file(reference["image_id"])
        rows.append(
            {
                "image": file.read_bytes(),
                "sentences": [each["sent"] for each in reference["sentences"]],
                "bboxes": [each["bbox"] for each in boxes],
                "labels": [each["id"] for each in boxes].index(reference["ann_id"]),
                "image_id": reference["image_id"],
                "ref_id": reference["ref_id"],
            }
        )
    return rows


@pytest.mark.parametrize(
    ("dataset", "given", "written", "split_by"),
    [
        ("refcoco", None, "refcoco", "unc"),
        ("refcoco", "google", "refcoco", "google"),
        ("refcoco+", "unc", "refcoco+", "unc"),
        ("refcocog", None, "refcocog", "umd"),
        ("refcocog", "google", "refcocog", "google"),
        ("refcocog_google", None, "refcocog", "google"),
    ],
)
def test_every_file_holds_what_the_raw_files_say(
    tmp_path: Path, dataset: str, given: str | None, written: str, split_by: str
):
    references, instances = raw_refcoco.build(split_by)
    raw_refcoco.write(tmp_path / "raw", references, instances, written, split_by)
    contents = []
    for workers in (1, 2):
        manifests = make_arrow(tmp_path / "raw", tmp_path / "arrow", dataset=dataset, split_by=given, workers=workers)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / "arrow").iterdir()})
    assert contents[0] == contents[1]
    assert len(manifests) == len(raw_refcoco.SPLITS[split_by])
    for split, manifest in zip(raw_refcoco.SPLITS[split_by], manifests, strict=True):
        file = tmp_path / "arrow" / f"{written}_{split_by}_{split}.arrow"
        rows = expected_rows(tmp_path / "raw", references, instances, split)
        assert read_rows(file) == rows
        assert len({row["labels"] for row in rows}) > 1
        said = json.loads(pa.ipc.open_file(str(file)).schema.metadata[METADATA_KEY])
        assert said == {"dataset": written, "split": split, "split_by": split_by}
        assert manifest["texts"] == manifest["listed_texts"] == 2 * len(rows)
        pictures = len({row["image_id"] for row in rows})
        noted = f"{3 * pictures} boxes are thinner than a pixel or outside of their image; they stay candidates."
        assert manifest["note"].startswith(noted)
        official = f"holds {len(rows)} rows where the official download has"
        assert (official in manifest["note"]) == ((dataset, given) != ("refcoco", "google"))


def test_the_files_are_those_that_are_read(tmp_path: Path):
    for dataset, row in DATASETS.items():
        if row.writer == "refcoco":
            variant = dataset.removesuffix("_google")
            split_by = next(iter(row.expected)).removeprefix(f"{variant}_").partition("_")[0]
            raw_refcoco.write(tmp_path / dataset, *raw_refcoco.build(split_by), variant, split_by)
            manifests = make_arrow(tmp_path / dataset, tmp_path / "arrow", dataset=dataset, workers=1)
            assert [manifest["file"] for manifest in manifests] == [file for (file,) in row.splits.values()]


def test_a_json_file_of_the_same_content_gives_the_same(tmp_path: Path):
    for ending in ("p", "json"):
        raw_refcoco.write(tmp_path / ending, *raw_refcoco.build(), ending=ending)
        make_arrow(tmp_path / ending, tmp_path / f"arrow {ending}", workers=1)
    for split in raw_refcoco.SPLITS["unc"]:
        name = f"refcoco_unc_{split}.arrow"
        assert (tmp_path / "arrow p" / name).read_bytes() == (tmp_path / "arrow json" / name).read_bytes()


def test_boxes_shrink_with_their_picture(tmp_path: Path):
    references, instances = raw_refcoco.build()
    raw_refcoco.write(tmp_path, references, instances)
    make_arrow(tmp_path, tmp_path / "arrow", workers=1, resize=48)  # half of 128 x 96
    whole = expected_rows(tmp_path, references, instances, "train")
    for row, was in zip(read_rows(tmp_path / "arrow" / "refcoco_unc_train.arrow"), whole, strict=True):
        assert row["bboxes"] == [[side / 2 for side in box] for box in was["bboxes"]]


def test_references_that_cannot_be_used_are_counted_and_named(tmp_path: Path):
    references, instances = raw_refcoco.build()
    of_train = [each for each in references if each["split"] == "train"]
    names = [f"reference {each['ref_id']}" for each in of_train]
    of_train[0]["ann_id"] = 5
    of_train[1]["image_id"] = 7
    of_train[2]["sentences"] = [{"sent": " "}]
    of_train[3]["sentences"].append({"sent": ""})
    without, outside = (
        next(each["id"] for each in instances["annotations"] if each["image_id"] == 500 and each["bbox"] == box)
        for box in raw_refcoco.BOXES[-2:]
    )
    at_500 = [number for number, each in enumerate(of_train) if each["image_id"] == 500 and number > 3]
    of_train[at_500[0]]["ann_id"], of_train[at_500[1]]["ann_id"] = without, outside
    raw_refcoco.write(tmp_path, references, instances)
    manifest = make_arrow(tmp_path, tmp_path / "arrow", workers=1)[0]
    assert manifest["skipped"] == {
        "empty expression": {"count": 2, "first": [names[2], names[3]]},
        "reference to a box without area inside its image": {"count": 2, "first": [names[n] for n in at_500[:2]]},
        "reference to an image that instances.json lacks": {"count": 1, "first": [names[1]]},
        "reference to an object that its image lacks in instances.json": {"count": 1, "first": [names[0]]},
        "reference without an expression": {"count": 1, "first": [names[2]]},
    }
    rows = read_rows(tmp_path / "arrow" / "refcoco_unc_train.arrow")
    left = [each for number, each in enumerate(of_train) if number not in (0, 1, 2, *at_500[:2])]
    assert [row["ref_id"] for row in rows] == [each["ref_id"] for each in left]
    assert rows[0]["sentences"] == [each["sent"] for each in of_train[3]["sentences"][:2]]
    assert all(len(row["bboxes"]) == len(raw_refcoco.BOXES) for row in rows)
    assert (manifest["listed"], manifest["rows"]) == (len(of_train), len(left))


def test_a_size_that_is_not_said_leaves_only_boxes_without_area_out(tmp_path: Path):
    references, instances = raw_refcoco.build()
    for entry in instances["images"]:
        entry.pop("width", None)
        entry.pop("height", None)
    for reference in references[:2]:  # outside of the image to the right, without area
        box = raw_refcoco.BOXES[-1 - references.index(reference)]
        reference.update(split="val", image_id=501)
        reference["ann_id"] = next(
            each["id"] for each in instances["annotations"] if each["image_id"] == 501 and each["bbox"] == box
        )
    raw_refcoco.write(tmp_path, references, instances)
    manifest = make_arrow(tmp_path, tmp_path / "arrow", workers=1)[1]
    assert {kind: each["first"] for kind, each in manifest["skipped"].items()} == {
        "reference to a box without area inside its image": ["reference 71"]
    }


def test_odd_pictures_are_kept_and_unreadable_ones_named(tmp_path: Path):
    references, instances = raw_refcoco.build()
    contents = [*(content for content, _ in bad_pictures().values()), *odd_pictures().values()]
    for number in range(len(contents)):
        image = {"id": 10 + number, "file_name": f"{number}.jpg"}  # with no size, as no file says the right one
        instances["images"].append(image)
        instances["annotations"].append({"id": 5000 + number, "image_id": image["id"], "bbox": [1, 2, 3, 4]})
        references.append(
            references[0] | {"split": "testA", "ref_id": 900 + number, "ann_id": 5000 + number, "image_id": image["id"]}
        )
    raw_refcoco.write(tmp_path, references, instances)
    for number, content in enumerate(contents):
        if content is not None:
            (tmp_path / raw_refcoco.FOLDER / f"{number}.jpg").write_bytes(content)
    manifest = make_arrow(tmp_path, tmp_path / "arrow", workers=2, max_unreadable=0.9)[2]
    counted = {kind: each["count"] for kind, each in manifest["skipped"].items()}
    assert counted == {"missing": 1, "unreadable": 5, "too large": 1}
    assert manifest["skipped"]["missing"]["first"] == [f"{raw_refcoco.FOLDER}/0.jpg: no such file"]
    rows = read_rows(tmp_path / "arrow" / "refcoco_unc_testA.arrow")
    assert [row["image"] for row in rows if row["ref_id"] >= 900] == list(odd_pictures().values())


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_refs_file_with_a_payload_is_refused(tmp_path: Path, protocol: int):
    references, instances = raw_refcoco.build()
    raw_refcoco.write(tmp_path, references, instances)
    content = pickle.dumps([*references, Payload(tmp_path / "made")], protocol)
    (tmp_path / "refcoco" / "refs(unc).p").write_bytes(content)
    assert (
        f"refs(unc).p' is not a pickle of plain values, is cut short or damaged (it holds the name '{os.name}."
        in refusal(tmp_path)
    )
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("ending", ["p", "json"])
@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda refs: refs.append(refs[0]), "lists reference 70 twice; download it again."),
        (lambda refs: refs[0].update(split="test"), "has split 'test'; the splits are train, val, testA, testB."),
        (lambda refs: refs[0].update(split=[]), "reference 0['split'] is list, but has to be text"),
        (lambda refs: refs[0].pop("ann_id"), "reference 0 lacks 'ann_id'"),
        (lambda refs: refs[0].update(ref_id="70"), "reference 0['ref_id'] is '70', but has to be a whole number"),
        (lambda refs: refs[0].update(sentences=None), "reference 0['sentences'] is None"),
        (lambda refs: refs[0].update(sentences=[{"sent": 3}]), "reference 0['sentences'][0]['sent'] is 3"),
        (lambda refs: refs.insert(0, "a text"), "reference 0 is 'a text', but has to be an object"),
        (lambda refs: refs.clear(), "refs(unc)."),
    ],
)
def test_refuses_references(tmp_path: Path, spoil: Callable, sentence: str, ending: str):
    references, instances = raw_refcoco.build()
    spoil(references)
    raw_refcoco.write(tmp_path, references, instances, ending=ending)
    assert sentence in refusal(tmp_path)


@pytest.mark.parametrize("references", [{}, {"images": []}, 5, None, "a text", [{"ref_id": 2**63}]])
def test_refuses_what_is_no_list_of_references(tmp_path: Path, references: object):
    raw_refcoco.write(tmp_path, references, {})
    assert f"'{tmp_path / 'refcoco' / 'refs(unc).p'}' " in refusal(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda images, boxes: boxes[0].update(bbox=[1, 2, float("nan"), 4]), "is cut short or is not JSON"),
        (lambda images, boxes: boxes[0].update(bbox=[1, 2, 3]), "annotation 0 has a bbox of 3 numbers"),
        (lambda images, boxes: boxes[0].update(bbox=[1, 2, 3, "wide"]), "annotation 0['bbox'][3] is 'wide'"),
        (lambda images, boxes: boxes[0].pop("bbox"), "annotation 0 lacks 'bbox'"),
        (lambda images, boxes: boxes[0].update(id="1"), "annotation 0['id'] is '1'"),
        (
            lambda images, boxes: boxes.insert(0, None),
            "annotation 0 is None, but has to be an object",
        ),
        (lambda images, boxes: images[0].pop("file_name"), "image 0 lacks 'file_name'"),
        (lambda images, boxes: images[0].update(width="wide"), "image 0['width'] is 'wide'"),
        (lambda images, boxes: images.insert(0, []), "image 0 is list, but has to be an object"),
        (lambda images, boxes: images.append(images[0]), "lists image 500 twice"),
        (lambda images, boxes: boxes.append(boxes[0]), "lists object 1000 twice"),
        (lambda images, boxes: images[0].update(file_name="../../secret.jpg"), "leads out of root"),
        (lambda images, boxes: images.clear(), "holds no entry at 'images.item'"),
        (lambda images, boxes: boxes.clear(), "holds no entry at 'annotations.item'"),
    ],
)
def test_refuses_instances(tmp_path: Path, spoil: Callable, sentence: str):
    references, instances = raw_refcoco.build()
    spoil(instances["images"], instances["annotations"])
    raw_refcoco.write(tmp_path, references, instances)
    assert sentence in refusal(tmp_path)


def test_refuses_options_and_files_that_are_not_there(tmp_path: Path):
    raw_refcoco.write(tmp_path, *raw_refcoco.build())
    for options, sentence in (
        ({"split_by": "umd"}, "split_by='umd' does not exist for refcoco; give unc or google."),
        (
            {"dataset": "refcocog_google", "split_by": "umd"},
            "split_by='umd' does not exist for refcocog_google; give go",
        ),
        ({"split_by": "google"}, "needs refs(google).p or refs(google).json, found instances.json, refs(unc).p."),
        ({"dataset": "refcocog"}, "refcocog' needs refs(umd).p or refs(umd).json, found nothing."),
        ({"quality": 101}, "quality=101 is not allowed"),
    ):
        assert sentence in refusal(tmp_path, **options)
    instances = tmp_path / "refcoco" / "instances.json"
    instances.write_bytes(instances.read_bytes()[:-20])
    assert "instances.json' is cut short or is not JSON" in refusal(tmp_path)
    instances.unlink()
    assert "instances.json' cannot be read (No such file" in refusal(tmp_path)
    refs = tmp_path / "refcoco" / "refs(unc).p"
    refs.write_bytes(refs.read_bytes()[:-20])
    assert "refs(unc).p' is not a pickle of plain values, is cut short or damaged " in refusal(tmp_path)


def test_a_user_prepares_it_with_one_command(run_cli, tmp_path: Path):
    references, instances = raw_refcoco.build("google")
    raw_refcoco.write(tmp_path / "raw", references, instances, "refcocog", "google")
    command = ("prepare", "with", "dataset=refcocog", "root=raw", "data_root=arrow", "workers=2")
    done = run_cli(*command, "split_by=google")
    assert done.code == 0, done.stderr
    assert "refcocog_google_val.arrow: 16 images, 32 texts, 0." in done.stdout
    assert "refcocog_google_val.arrow holds 16 rows where the official download has 5,000" in done.stdout
    rows = read_rows(tmp_path / "arrow" / "refcocog_google_train.arrow")
    assert rows == expected_rows(tmp_path / "raw", references, instances, "train")
    manifest = json.loads((tmp_path / "arrow" / "refcocog_google_train.json").read_text())
    assert manifest["options"]["split_by"] == "google"
    done = run_cli(*command)
    assert (done.code, done.stderr.count("\n"), "Traceback" in done.stderr) == (1, 1, False)
    assert "needs refs(umd).p or refs(umd).json, found instances.json, refs(google).p." in done.stderr
