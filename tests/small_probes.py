"""Every benchmark of `probes` in miniature, as its official files lie on disk; its arrow file by the real writer.

A picture is of one colour, and no two pictures of a benchmark have the same, so that a test can tell which is shown.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from renaissance.data.dataset_specs import DATASETS, PROBES
from renaissance.data.prepare import prepare

NAMES = tuple(name for name, row in DATASETS.items() if row.sample_kind == PROBES)
SIZE = (40, 32)  # of every picture
SUGARCREPE = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
SUGARCREPE_PP = SUGARCREPE[2:]
BOX = (8.0, 4.0, 20.0, 16.0)  # of ARO, in a picture of another colour around it


class Row(NamedTuple):
    """What a row has to be when it is read; colours stand for pictures."""

    id: str
    colours: tuple[tuple[int, int, int], ...]
    texts: list[str]
    correct: list[list[int]]
    category: str | None = None
    group: str | None = None
    box: tuple[float, ...] | None = None


def colour(number: int) -> tuple[int, int, int]:
    """The colour of the picture of this number."""
    return (40 + 60 * (number % 4), 40 + 60 * (number // 4 % 4), 40 + 60 * (number // 16 % 4))


def picture(number: int, box: tuple[float, ...] | None = None) -> bytes:
    """A PNG file; with a box the colour is inside of it alone."""
    image = Image.new("RGB", SIZE, colour(number) if box is None else (0, 0, 0))
    if box is not None:
        x, y, width, height = map(int, box)
        image.paste(colour(number), (x, y, x + width, y + height))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write(name: str, root: Path) -> dict[str, list[Row]]:
    """Writes a download of a benchmark of 2 to 10 rows; returns what its splits have to hold."""
    writers = {"winoground": _winoground, "mmvp": _mmvp, "valse": _valse, "vsr": _vsr, "vsr_zeroshot": _vsr}
    families = {"sugarcrepe": _sugarcrepe, "aro_order": _aro_order, "aro": _aro, "whatsup": _whatsup}
    writer = writers.get(name) or next(writer for start, writer in families.items() if name.startswith(start))
    found = writer(name, root)
    return found if isinstance(found, dict) else {name: found}


def arrows(name: str, root: Path, data_root: Path, **options: Any) -> dict[str, list[Row]]:
    """Writes a download and its arrow files; returns what they have to hold."""
    rows = write(name, root)
    prepare(name, root, data_root, **{"workers": 1, **options})
    return rows


def save(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def _lines(entries: list[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def _winoground(_: str, root: Path) -> list[Row]:
    entries, rows = [], []
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(4):
            texts = [f"some plants surrounding lightbulb {number}", f"a lightbulb surrounding some plants {number}"]
            stems = [f"ex_{number}_img_{side}" for side in (0, 1)]
            tag = ("Object", "Relation", "Both")[number % 3]
            for side, stem in enumerate(stems):
                archive.writestr(f"images/{stem}.png", picture(2 * number + side))
            entry = {
                "id": number,
                "caption_0": texts[0],
                "caption_1": texts[1],
                "image_0": stems[0],
                "image_1": stems[1],
            }
            tags = {"tag": "Noun", "secondary_tag": "", "num_main_preds": 1, "collapsed_tag": tag}
            entries.append({**entry, **tags})
            rows.append(Row(str(number), (colour(2 * number), colour(2 * number + 1)), texts, [[1, 0], [0, 1]], tag))
    save(root / "data" / "images.zip", packed.getvalue())
    save(root / "data" / "examples.jsonl", _lines(entries))
    return rows


def _mmvp(_: str, root: Path) -> list[Row]:
    lines, rows = ["Question ID,Type,Statement"], []
    for pair in range(4):
        kind = ("Orientation and Direction", "Texts")[pair // 2]
        numbers = [2 * pair + 1, 2 * pair + 2]
        texts = [f"a dog, facing left {pair}", f"a dog, facing right {pair}"]
        for number, text in zip(numbers, texts, strict=True):
            lines.append(f'{number},{kind},"{text}"')
            save(root / "MLLM_VLM Images" / kind / f"{number}.jpg", picture(number))
        rows.append(Row(f"{numbers[0]}_{numbers[1]}", tuple(map(colour, numbers)), texts, [[1, 0], [0, 1]], kind))
    save(root / "Questions.csv", "\n".join(lines) + "\n")
    return rows


def _sugarcrepe(name: str, root: Path) -> list[Row]:
    rows, number = [], 0
    plus = name == "sugarcrepe_pp"
    for file in SUGARCREPE_PP if plus else SUGARCREPE:
        entries = {}
        for key in ("0", "7"):  # the official files have gaps
            picture_name = f"{number:012d}.jpg"
            save(root / "val2017" / picture_name, picture(number))
            texts = [
                f"a red cat on a mat {number}",
                f"on a mat lies a red cat {number}",
                f"a blue cat on a mat {number}",
            ]
            texts = texts if plus else [texts[0], texts[2]]
            keys = ("caption", "caption2", "negative_caption") if plus else ("caption", "negative_caption")
            entries[key] = {"filename": picture_name, **dict(zip(keys, texts, strict=True))}
            correct = [[1, 1, 0]] if plus else [[1, 0]]
            rows.append(Row(f"{file}_{key}", (colour(number),), texts, correct, file))
            number += 1
        content = [{"id": int(key), **entry} for key, entry in entries.items()] if plus else entries
        save(root / "data" / f"{file}.json", content)
    return rows


VALSE = {  # file -> collection, name of an image, folder of the image below root
    "actant-swap": ("SWiG", "exercising_{}.jpg", "images/SWiG"),
    "action-replacement": ("SWiG", "exercising_{}.jpg", "images/SWiG"),
    "coreference-hard": ("VisDial_v1.0", "VisualDialog_val2018_{:012d}.jpg", "VisualDialog_val2018"),
    "existence": ("visual7w", "v7w_{}.jpg", "data/visual7w/images"),
    "foil-it": ("FOIL dataset", "COCO_val2014_{:012d}.jpg", "val2014"),
    "plurals": ("coco2017", "{:012d}.jpg", "images"),
}


def _valse(_: str, root: Path) -> list[Row]:
    rows, number = [], 0
    for file, (collection, pattern, folder) in VALSE.items():
        entries = {}
        for place, votes in enumerate((3, 1, 2)):  # the second is not valid, and has no picture
            key, image = f"actions_test_{place}", pattern.format(number)  # the same keys in several files
            texts = [f"A man exercises his torso {number}.", f"A torso exercises for a man {number}."]
            entries[key] = {
                **{"dataset": collection, "original_split": "test", "linguistic_phenomena": "actions"},
                **{
                    "image_file": image,
                    "caption": texts[0],
                    "foil": texts[1],
                    "classes": "man",
                    "classes_foil": "torso",
                },
                "mturk": {"foil": 3 - votes, "caption": votes, "other": 0},
            }
            if votes >= 2:
                save(root / folder / image, picture(number))
                rows.append(Row(f"{file}_{key}", (colour(number),), texts, [[1, 0]], file))
            number += 1
        save(root / "data" / f"{file}.json", entries)
    return rows


def _aro(name: str, root: Path) -> list[Row]:
    entries, rows = [], []
    for number in range(4):
        image = f"{2000 + number // 2}.jpg"  # two rows share a picture
        save(root / "images" / image, picture(number // 2, BOX))
        texts = [f"the horse is eating the grass {number}", f"the grass is eating the horse {number}"]
        box = (BOX[0] + number % 2, BOX[1], BOX[2] - 1, BOX[3] - number % 2)
        entry = {
            "image_id": image[:4],
            "image_path": image,
            **dict(zip(("bbox_x", "bbox_y", "bbox_w", "bbox_h"), box, strict=True)),
        }
        entry |= {"true_caption": texts[0], "false_caption": texts[1]}
        if name == "aro_relation":
            category = entry["relation_name"] = ("eating", "on")[number // 2]
        else:
            entry["attributes"] = [("white", "paved"), ("red", "tall")][number // 2]
            category = ",".join(entry["attributes"])
        entries.append(entry)
        rows.append(Row(str(number), (colour(number // 2),), texts, [[1, 0]], category, box=box))
    save(root / f"visual_genome_{name.removeprefix('aro_')}.json", entries)
    return rows


def _aro_order(name: str, root: Path) -> list[Row]:
    flickr = name == "aro_order_flickr"
    entries, rows = [], []
    for number in range(3):
        image = f"flickr30k-images/{number}.jpg" if flickr else f"val2014/COCO_val2014_{number:012d}.jpg"
        save(root / image, picture(number))
        words = f"a dog runs in grass {number}".split()
        texts = [" ".join(words[turn:] + words[:turn]) for turn in range(5)]
        entries.append({"image_path" if flickr else "image": image, "caption_options": texts})
        rows.append(Row(str(number), (colour(number),), texts, [[1, 0, 0, 0, 0]]))
    save(root / ("flickr_order.json" if flickr else "coco_order.json"), entries)
    return rows


def _whatsup(name: str, root: Path) -> list[Row]:
    entries: list[Any] = []
    rows: list[Row] = []
    if name in ("whatsup_a", "whatsup_b"):
        folder, third = {"whatsup_a": ("images", ("on", "under")), "whatsup_b": ("clevr", ("in-front_of", "behind"))}[
            name
        ]
        prepositions = ("left_of", "right_of", *third)
        for number in range(8):  # two sets of four
            first, last = (("beer-bottle", "armchair"), ("mug", "plate"))[number // 4]
            image = f"controlled_{folder}/{first}_{prepositions[number % 4]}_{last}.jpeg"
            save(root / "data" / image, picture(number))
            order = [prepositions[number % 4], *(each for each in prepositions if each != prepositions[number % 4])]
            texts = [f"A {first} {each.replace('_', ' ')} a {last}" for each in order]
            entries.append({"image_path": f"data/{image}", "caption_options": texts})
            rows.append(Row(str(number), (colour(number),), texts, [[1, 0, 0, 0]], order[0], f"{first}_{last}"))
        save(root / "data" / f"controlled_{folder}_dataset.json", entries)
        return rows
    of, many = name.removeprefix("whatsup_").split("_")
    for number in range(4):
        image = f"val2017/{number + 100:012d}.jpg" if of == "coco" else f"vg_images/{number + 100}.jpg"
        save(root / image, picture(number))
        sides = (("left", "right"), ("right", "left"))[number % 2]
        what = "A photo of a dog to the {} of a cat" if many == "two" else "A photo of a dog on the {}"
        texts = [what.format(side) for side in sides]
        entries.append([number + 100 if of == "coco" else str(number + 100), *texts])
        rows.append(Row(str(number), (colour(number),), texts, [[1, 0]], sides[0]))
    save(root / f"{of}_qa_{many}_obj.json", entries)
    return rows


def _vsr(name: str, root: Path) -> dict[str, list[Row]]:
    splits: dict[str, list[Row]] = {}
    for split, (part, count) in {"train": ("train", 6), "val": ("dev", 4), "test": ("test", 4)}.items():
        entries, rows = [], []
        for number in range(count):
            image, relation = f"{number:012d}.jpg", ("behind", "at the left side of")[number % 2]
            save(root / "images" / image, picture(number))  # splits share pictures
            label, text = int(number % 3 > 0), f"The {split} cat is {relation} the laptop {number}."
            entries.append(
                {"image": image, "image_link": "http://x", "caption": text, "label": label, "relation": relation}
            )
            rows.append(Row(str(number + 1), (colour(number),), [text], [[label]], relation))
        save(root / "splits" / ("random" if name == "vsr" else "zeroshot") / f"{part}.jsonl", _lines(entries))
        splits[split] = rows
    return splits
