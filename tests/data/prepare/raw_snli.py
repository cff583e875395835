"""SNLI-VE in miniature: JSON lines beside Flickr30k's images."""

from __future__ import annotations

import json
from pathlib import Path

from data.prepare.raw_files import photograph, write_pictures

LABELS = ("entailment", "neutral", "contradiction")
PICTURES = {"train": 6, "dev": 2, "test": 3}


def annotation_file(split: str) -> str:
    return f"snli_ve_{split}.jsonl"


def picture_file(line: dict) -> str:
    return f"Flickr30K/images/{line['Flickr30K_ID'].split('.')[0]}.jpg"


def build() -> dict[str, list[dict]]:
    """Lines by split; those of an image do not stand together, and some name it with its extension."""
    splits: dict[str, list[dict]] = {}
    for first, (split, count) in enumerate(PICTURES.items()):
        splits[split] = [
            {
                "Flickr30K_ID": f"{1000 * first + picture}" + ".jpg" * (number % 2),
                "annotator_labels": [LABELS[number % 3]] * 3,
                "captionID": f"{picture}.jpg#0",
                "gold_label": LABELS[(number + picture) % 3],
                "pairID": f"{picture}.jpg#0r{number}",
                "sentence1": f"A man in image {picture}.",
                "sentence1_parse": "( ( A man ) . )",
                "sentence2": f" Hypothesis {number}\nof {picture}: é ",
            }
            for number in range(4)
            for picture in range(count)
        ]
    return splits


def write(root: Path, splits: dict[str, list[dict]]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for split, lines in splits.items():
        (root / annotation_file(split)).write_text("".join(json.dumps(line) + "\n" for line in lines))
    for number, file in enumerate(sorted({picture_file(line) for lines in build().values() for line in lines})):
        write_pictures((root / file).parent, {Path(file).name: photograph(number)})
