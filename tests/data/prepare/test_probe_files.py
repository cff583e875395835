"""Benchmarks of probes: their official files in, one shape of row out; what they must not be."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import small_probes
from data.prepare.raw_files import bad_pictures, read_rows, refused
from renaissance.core.errors import UserError
from renaissance.data.check import check_data
from renaissance.data.collate import crop
from renaissance.data.dataset_specs import DATASETS, PROBES, WRITERS
from renaissance.data.datasets import open_samples, splits_of
from renaissance.data.images import decode


def make_arrow(name: str) -> Callable:
    return partial(WRITERS[DATASETS[name].writer], dataset=name)


def refusal(name: str, root: Path, **options: Any) -> str:
    return refused(make_arrow(name), root, **options)


def shown(sample: Any) -> tuple[tuple[int, ...], ...]:
    """The one colour of each image of a sample, of what its box shows."""
    images = [decode(image, sample.where) for image in sample.images]
    if boxes := sample.values.get("bboxes"):
        images = [crop(image, box) for image, box in zip(images, boxes, strict=True)]
    colours = [np.unique(image.reshape(3, -1).numpy(), axis=1) for image in images]
    assert all(each.shape[1] == 1 for each in colours), "an image shows something beside what it is about"
    return tuple(tuple(each[:, 0].tolist()) for each in colours)


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Changes the content of a JSON file, or the objects of a file of JSON lines."""
    if path.suffix == ".jsonl":
        entries = list(map(json.loads, path.read_text(encoding="utf-8").splitlines()))
        change(entries)
        small_probes.save(path, "".join(json.dumps(entry) + "\n" for entry in entries))
    else:
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content)
        small_probes.save(path, content)


@pytest.mark.parametrize("name", small_probes.NAMES)
def test_a_benchmark_is_read_back_as_its_files_say(name: str, tmp_path: Path):
    expected = small_probes.write(name, tmp_path / "raw")
    contents = []
    for workers in (1, 2):
        manifests = make_arrow(name)(tmp_path / "raw", tmp_path / "arrow", workers=workers)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / "arrow").iterdir()})
    assert contents[0] == contents[1]
    assert [manifest["rows"] for manifest in manifests] == [len(rows) for rows in expected.values()]
    assert [manifest["texts"] for manifest in manifests] == [
        sum(len(row.texts) for row in rows) for rows in expected.values()
    ]
    assert splits_of(name, tmp_path / "arrow", sample_kind=PROBES) == tuple(expected)
    for split, rows in expected.items():
        samples = open_samples(name, split, tmp_path / "arrow", sample_kind=PROBES)
        assert len(samples) == len(rows)
        for sample, row in zip(map(samples.__getitem__, range(len(rows))), rows, strict=True):
            values = sample.values
            assert (values["id"], values["texts"], values["correct"]) == (row.id, row.texts, row.correct)
            assert (values["category"] or None, values["group"] or None) == (row.category, row.group)
            assert values.get("bboxes") == (None if row.box is None else [list(row.box)])
            assert shown(sample) == row.colours


def test_what_is_written_passes_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("winoground", "aro_relation", "vsr"):  # of each layout
        small_probes.arrows(name, tmp_path / name, tmp_path / "arrow")
    check_data(tmp_path / "arrow", workers=1)
    assert "nothing is wrong" in capsys.readouterr().out
    assert (tmp_path / "arrow" / "check_data_aro_relation.png").stat().st_size > 1000


def test_counts_of_the_official_download_are_compared(tmp_path: Path):
    small_probes.write("mmvp", tmp_path)
    [manifest] = make_arrow("mmvp")(tmp_path, tmp_path / "arrow", workers=1)
    assert manifest["note"].startswith("mmvp.arrow holds 4 rows where the official download has 135: 4 are listed")
    assert manifest["options"]["max_unreadable"] == 0


def test_rows_that_annotators_refused_are_left_out_and_counted(tmp_path: Path):
    small_probes.write("valse", tmp_path)
    [manifest] = make_arrow("valse")(tmp_path, tmp_path / "arrow", workers=1)
    [(kind, counted)] = manifest["skipped"].items()
    assert kind == "row that fewer than two of three annotators accept" and counted["count"] == len(small_probes.VALSE)
    assert counted["first"][0] == "actant-swap_actions_test_1"


def test_winoground_may_be_unpacked(tmp_path: Path):
    rows = small_probes.write("winoground", tmp_path)["winoground"]
    make_arrow("winoground")(tmp_path, tmp_path / "packed", workers=1)
    with zipfile.ZipFile(tmp_path / "data" / "images.zip") as archive:
        archive.extractall(tmp_path / "data")
    (tmp_path / "data" / "images.zip").unlink()
    make_arrow("winoground")(tmp_path, tmp_path / "unpacked", workers=1)
    packed, unpacked = (read_rows(tmp_path / each / "winoground.arrow") for each in ("packed", "unpacked"))
    assert packed == unpacked and len(packed) == len(rows)


def test_sugarcrepe_pp_may_be_a_dictionary_or_a_list(tmp_path: Path):
    small_probes.write("sugarcrepe_pp", tmp_path)
    make_arrow("sugarcrepe_pp")(tmp_path, tmp_path / "lists", workers=1)
    for path in (tmp_path / "data").glob("*.json"):
        entries = json.loads(path.read_text(encoding="utf-8"))
        small_probes.save(path, {str(entry.pop("id")): entry for entry in entries})
    make_arrow("sugarcrepe_pp")(tmp_path, tmp_path / "dictionaries", workers=1)
    lists, dictionaries = (read_rows(tmp_path / each / "sugarcrepe_pp.arrow") for each in ("lists", "dictionaries"))
    assert lists == dictionaries


@pytest.mark.parametrize("name", ["aro_attribution", "whatsup_b", "vsr", "whatsup_coco_two"])
def test_everything_may_lie_in_data(name: str, tmp_path: Path):
    small_probes.write(name, tmp_path / "plain")
    (tmp_path / "below").mkdir()
    if (tmp_path / "plain" / "data").exists():  # and the other way round
        shutil.copytree(tmp_path / "plain" / "data", tmp_path / "below", dirs_exist_ok=True)
    else:
        shutil.copytree(tmp_path / "plain", tmp_path / "below" / "data")
    files = [
        [read_rows(tmp_path / "arrow" / each / manifest["file"]) for manifest in make_arrow(name)(
            tmp_path / each, tmp_path / "arrow" / each, workers=1
        )]
        for each in ("plain", "below")
    ]  # fmt: skip
    assert files[0] == files[1]


def test_boxes_shrink_with_their_picture_and_may_reach_over_its_border(tmp_path: Path):
    small_probes.write("aro_relation", tmp_path)
    edit(tmp_path / "visual_genome_relation.json", lambda entries: entries[1].update(bbox_x=-3, bbox_w=100))
    [manifest] = make_arrow("aro_relation")(tmp_path, tmp_path / "arrow", workers=1, resize=16)  # half of 40 x 32
    assert "1 boxes reach over the border of their image; what lies in it is shown." in manifest["note"]
    rows = read_rows(tmp_path / "arrow" / "aro_relation.arrow")
    assert [row["bboxes"][0] for row in rows[:2]] == [[4, 2, 9.5, 8], [-1.5, 2, 50, 7.5]]


PICTURES = {  # a picture of the second row at the latest, and where else it was looked for
    "winoground": ("data/images.zip", "ex_1_img_0.png: not in data/images.zip"),
    "mmvp": (
        "MLLM_VLM Images/Orientation and Direction/3.jpg",
        "3.jpg: no such file in MLLM_VLM Images/Orientation and ",
    ),
    "sugarcrepe": ("val2017/000000000001.jpg", "000000000001.jpg: no such file in val2017/ or images/val2017/ or "),
    "valse": (
        "images/SWiG/exercising_0.jpg",
        "exercising_0.jpg: no such file in images/SWiG/ or images/ or data/actions/",
    ),
    "aro_relation": ("images/2000.jpg", "2000.jpg: no such file in images/ or data/images/"),
    "aro_order_coco": (
        "val2014/COCO_val2014_000000000001.jpg",
        "no such file in val2014/ or data/val2014/ or images/val2014/",
    ),
    "whatsup_vg_one": ("vg_images/101.jpg", "101.jpg: no such file in vg_images/ or data/vg_images/"),
    "vsr": ("images/000000000001.jpg", "000000000001.jpg: no such file in images/ or data/images/ or trainval2017/"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_is_missing_refuses_the_file_unless_it_may_be(name: str, tmp_path: Path):
    rows = next(iter(small_probes.write(name, tmp_path).values()))
    place, sentence = PICTURES[name]
    if name == "winoground":
        with zipfile.ZipFile(tmp_path / place) as archive:
            content = {each: archive.read(each) for each in archive.namelist() if "ex_1_img_0" not in each}
        with zipfile.ZipFile(tmp_path / place, "w") as archive:
            for each in content.items():
                archive.writestr(*each)
    else:
        (tmp_path / place).unlink()
    said = refusal(name, tmp_path)  # by a look, before any is read
    assert sentence in said and f"of {len(rows) + (name == 'valse') * len(small_probes.VALSE)} rows for " in said
    assert said.endswith("%, and max_unreadable=0; nothing was written.")
    file = DATASETS[name].splits[next(iter(DATASETS[name].splits))][0]
    manifests = make_arrow(name)(tmp_path, tmp_path / "arrow", workers=1, max_unreadable=0.5)
    assert len(rows) > manifests[0]["rows"] > 0 and manifests[0]["skipped"]["missing"]["count"] > 0
    assert len(read_rows(tmp_path / "arrow" / file)) == manifests[0]["rows"]


def test_pictures_that_cannot_be_read_are_told(tmp_path: Path):
    """Also where the size is wanted for a box, and in an archive."""
    small_probes.write("aro_relation", tmp_path / "aro")
    (tmp_path / "aro" / "images" / "2000.jpg").write_bytes(bad_pictures()["page.jpg"][0])
    with pytest.raises(
        UserError, match=r"2 of 4 images for aro_relation.arrow could not be read \(first images/2000.jpg"
    ):
        make_arrow("aro_relation")(tmp_path / "aro", tmp_path / "arrow", workers=1)
    small_probes.write("winoground", tmp_path / "wino")
    path = tmp_path / "wino" / "data" / "images.zip"
    whole = path.read_bytes()
    picture = small_probes.picture(0)
    path.write_bytes(whole.replace(picture, picture[:-20] + bytes(20)))  # its checksum is that of another
    with pytest.raises(
        UserError, match=r"1 of 4 images for winoground.arrow could not be read \(first ex_0_img_0.png: "
    ):
        make_arrow("winoground")(tmp_path / "wino", tmp_path / "arrow", workers=1)
    path.write_bytes(whole[:-30])
    assert "images.zip' is no whole zip archive" in refusal("winoground", tmp_path / "wino")


def test_a_gated_download_says_how_to_get_it(tmp_path: Path):
    gate = (
        "Winoground is behind a gate: log in at huggingface.co, accept the terms of facebook/winoground, and download its "
        "data/examples.jsonl and data/images.zip with that account."
    )
    lacks = f"root='{tmp_path}' lacks "
    assert refusal("winoground", tmp_path) == f"{lacks}data/examples.jsonl and data/images.zip; {gate}"
    small_probes.write("winoground", tmp_path)
    (tmp_path / "data" / "images.zip").unlink()
    assert refusal("winoground", tmp_path) == f"{lacks}data/images.zip; {gate}"
    assert "is not a folder" in refusal("winoground", tmp_path / "nothing")
    small_probes.write("winoground", tmp_path)
    for name in ("data/images.zip", "data/examples.jsonl"):
        for content in (
            "\n<!DOCTYPE html>\n<title>Log in</title>",
            "Access to dataset facebook/winoground is restricted.",
        ):
            small_probes.save(tmp_path / name, content)
            begin = repr(content.lstrip())[:16]
            said = refusal("winoground", tmp_path)
            assert said.startswith(f"'{tmp_path / name}' begins with {begin}") and said.endswith(
                f"not the file itself; {gate}"
            )


def _no_foil(rows: dict[str, Any]) -> None:
    rows["7"]["negative_caption"] = rows["7"]["caption"]


def _one_text(rows: list[dict[str, Any]]) -> None:
    rows[2]["caption_1"] = rows[2]["caption_0"]


def _right_one_last(rows: list[dict[str, Any]]) -> None:
    rows[1]["caption_options"].reverse()


@pytest.mark.parametrize(
    ("name", "file", "change", "id"),
    [
        ("sugarcrepe", "data/swap_att.json", _no_foil, "swap_att_7"),
        ("winoground", "data/examples.jsonl", _one_text, "2"),
        ("aro_order_coco", "coco_order.json", _right_one_last, None),
    ],
)
def test_a_foil_that_is_its_caption_is_told(name: str, file: str, change: Callable, id: str | None, tmp_path: Path):
    """Its row is a tie of every model; a right text that stands elsewhere is none."""
    small_probes.write(name, tmp_path)
    edit(tmp_path / file, change)
    [manifest] = make_arrow(name)(tmp_path, tmp_path / "arrow", workers=1)
    told = f"Rows with a right text that is a wrong one, too: 1 ({id}); none can be right."
    assert (told in manifest["note"]) == (id is not None)


LACKING = {
    "mmvp": "needs Questions.csv; found there: nothing.",
    "sugarcrepe": "lacks data/add_att.json, data/add_obj.json, data/replace_att.json, data/replace_obj.json, ",
    "sugarcrepe_pp": "lacks data/replace_att.json, data/replace_obj.json, data/replace_rel.json, data/swap_att.json",
    "valse": "needs data/*.json, VALSE's eleven files; found none.",
    "aro_attribution": "needs visual_genome_attribution.json or data/visual_genome_attribution.json; found there: nothing.",
    "aro_order_flickr": "needs flickr_order.json or flickr30k_order.json or data/flickr_order.json or data/flickr30k_",
    "whatsup_a": "needs controlled_images_dataset.json or data/controlled_images_dataset.json; found there: nothing.",
    "whatsup_coco_two": "needs coco_qa_two_obj.json or data/coco_qa_two_obj.json; found there: nothing.",
    "vsr_zeroshot": "needs splits/zeroshot/train.jsonl or data/splits/zeroshot/train.jsonl or train.jsonl; found there",
}


@pytest.mark.parametrize("name", LACKING)
def test_a_download_that_is_not_there(name: str, tmp_path: Path):
    said = refusal(name, tmp_path)
    assert said.startswith(f"root='{tmp_path}' ") and LACKING[name] in said


@pytest.mark.parametrize(
    ("name", "file", "change", "sentence"),
    [
        ("winoground", "data/examples.jsonl", lambda rows: rows[2].pop("image_1"), "line 3 lacks 'image_1'"),
        ("winoground", "data/examples.jsonl", lambda rows: rows[2].update(id=1), "line 3 has the id '1' of an earlier one"),
        ("winoground", "data/examples.jsonl", lambda rows: rows[1].update(image_0="../a"), "leads out of root"),
        ("winoground", "data/examples.jsonl", lambda rows: rows[0].update(caption_1=" "), "line 1 has an unusable text (empty"),
        ("winoground", "data/examples.jsonl", lambda rows: rows.clear(), "lists no row of winoground; download"),
        ("sugarcrepe", "data/add_att.json", lambda rows: rows["7"].update(caption=3), "add_att.json' entry 7['caption'] is 3"),
        ("sugarcrepe", "data/swap_obj.json", lambda rows: rows.update({"9": []}), "swap_obj.json' entry 9 is list, but has"),
        ("sugarcrepe", "data/swap_att.json", lambda rows: rows["0"].update(negative_caption=""), "entry 0 has an unusable text"),
        ("sugarcrepe_pp", "data/swap_att.json", lambda rows: rows[1].update(id=0), "has the id 'swap_att_0' of an earlier"),
        ("sugarcrepe_pp", "data/swap_att.json", lambda rows: rows[1].pop("caption2"), "entry 1 lacks 'caption2'"),
        ("valse", "data/plurals.json", lambda rows: rows["actions_test_0"].pop("mturk"), "entry actions_test_0 lacks 'mturk'"),
        ("valse", "data/plurals.json", lambda rows: rows["actions_test_0"].update(mturk={}), "['mturk']['caption'] is None"),
        ("valse", "data/plurals.json", lambda rows: rows["actions_test_0"].update(dataset="../.."), "leads out of root"),
        ("aro_relation", "visual_genome_relation.json", lambda rows: rows[3].update(image_path="/a.jpg"), "leads out of root"),
        ("aro_relation", "visual_genome_relation.json", lambda rows: rows[3].update(bbox_x=40), "entry 3 has the box [40, 4.0, "
            "19.0, 15.0], of which nothing lies in its image of 40 x 32 pixels; boxes are [x, y, width, height]."),
        ("aro_relation", "visual_genome_relation.json", lambda rows: rows[3].update(bbox_h=0), "entry 3 has the box [9.0, 4.0, "),
        ("aro_relation", "visual_genome_relation.json", lambda rows: rows[3].update(bbox_w=None), "['bbox_w'] is None"),
        ("aro_relation", "visual_genome_relation.json", lambda rows: rows[0].pop("relation_name"), "lacks 'relation_name'"),
        ("aro_attribution", "visual_genome_attribution.json", lambda rows: rows[0].update(attributes="red"), "is 'red', but"),
        ("aro_order_coco", "coco_order.json", lambda rows: rows[1].update(caption_options=[]),
            "entry 1 has 0 caption_options, and not 5, the right one first."),
        ("aro_order_flickr", "flickr_order.json", lambda rows: rows[1].pop("image_path"), "entry 1 lacks 'image'"),
        ("whatsup_a", "data/controlled_images_dataset.json", lambda rows: rows[5]["caption_options"].pop(),
            "entry 5 has 3 caption_options, and not 4"),
        ("whatsup_b", "data/controlled_clevr_dataset.json", lambda rows: rows[1].update(image_path="data/mug_plate.jpeg"),
            "entry 1 has the image 'data/mug_plate.jpeg', whose name is not <object>_<preposition>_<object>."),
        ("whatsup_coco_one", "coco_qa_one_obj.json", lambda rows: rows[2].pop(), "entry 2 is tuple, but has to be a list of 3"),
        ("whatsup_vg_two", "vg_qa_two_obj.json", lambda rows: rows.append({}), "entry 4 is dict, but has to be a list"),
        ("vsr", "splits/random/dev.jsonl", lambda rows: rows[2].update(label=2), "dev.jsonl' line 3 has the label 2; labels are"),
        ("vsr", "splits/random/test.jsonl", lambda rows: rows[0].update(label=True), "test.jsonl' line 1['label'] is True"),
        ("vsr_zeroshot", "splits/zeroshot/train.jsonl", lambda rows: rows.clear(), "lists no row of vsr_zeroshot train"),
    ],
)  # fmt: skip
def test_refuses_annotations(name: str, file: str, change: Callable[[Any], Any], sentence: str, tmp_path: Path):
    small_probes.write(name, tmp_path)
    edit(tmp_path / file, change)
    said = refusal(name, tmp_path)
    assert sentence in said and "\n" not in said


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "begins with nothing, and not with Question ID, Type, Statement."),
        ("lndex,Question\n1,a\n", "begins with lndex, Question, and not with Question ID, Type, Statement."),
        (
            "Question ID,Type,Statement\n1,Texts,a\n2,Texts,b\n3,Texts,c\n",
            "has 3 statements; two that follow each other are",
        ),
        (
            "Question ID,Type,Statement\n1,Texts,a\n\n2,Colour,b\n",
            "line 2 and the next are no pair: they need three values",
        ),
        (
            "Question ID,Type,Statement\n1,Texts\n2,Texts,b\n",
            "line 2 and the next are no pair: they need three values each",
        ),
        ("Question ID,Type,Statement\n1,../..,a\n2,../..,b\n", "leads out of root"),
        ("Question ID,Type,Statement\n1,Te\rxts,a\n2,Texts,b\n", "line 2 is not CSV (new-line"),
    ],
    ids=["empty", "header", "odd", "types", "two values", "climbs", "return"],
)
def test_refuses_questions(content: str, sentence: str, tmp_path: Path):
    small_probes.save(tmp_path / "Questions.csv", content)
    assert sentence in refusal("mmvp", tmp_path)


def test_an_annotation_file_that_is_cut_short(tmp_path: Path):
    small_probes.write("aro_relation", tmp_path)
    path = tmp_path / "visual_genome_relation.json"
    path.write_bytes(path.read_bytes()[:-20])
    assert "visual_genome_relation.json' cannot be read as JSON" in refusal("aro_relation", tmp_path)
    small_probes.save(path, 5)
    assert "visual_genome_relation.json' is 5, but has to be an object or a list" in refusal("aro_relation", tmp_path)


def test_a_user_prepares_one_with_one_command(run_cli, tmp_path: Path):
    small_probes.write("whatsup_a", tmp_path / "raw")
    command = ("prepare", "with", "dataset=whatsup_a", "root=raw", "data_root=arrow", "workers=1")
    done = run_cli(*command)
    assert done.code == 0, done.stderr
    assert "whatsup_a.arrow: 8 images, 32 texts" in done.stdout
    shutil.rmtree(tmp_path / "raw" / "data" / "controlled_images")
    done = run_cli(*command)
    assert (done.code, "Traceback" in done.stderr) == (1, False)
    [sentence] = done.stderr.splitlines()
    assert (
        "beer-bottle_left_of_armchair.jpeg: no such file in controlled_images/ or data/controlled_images/" in sentence
    )
