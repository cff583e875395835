"""NLVR2 in miniature, as the authors' repository and their images lie on disk."""

from __future__ import annotations

import json
from pathlib import Path

from data.prepare.raw_files import photograph, write_pictures

FILES = {
    "train": "nlvr2/data/train.json",
    "dev": "nlvr2/data/dev.json",
    "test1": "nlvr2/data/test1.json",
    "balanced_dev": "nlvr2/data/balanced/balanced_dev.json",
    "balanced_test1": "nlvr2/data/balanced/balanced_test1.json",
    "unbalanced_dev": "nlvr2/data/unbalanced/unbalanced_dev.json",
    "unbalanced_test1": "nlvr2/data/unbalanced/unbalanced_test1.json",
}
FOLDERS = {"train": "images/train", "dev": "dev", "test1": "test1"}


def build() -> dict[str, list[dict]]:
    """Examples by file. A pair has up to three sentences, which do not stand together."""
    splits: dict[str, list[dict]] = {}
    for split in FOLDERS:
        splits[split] = [
            {
                "identifier": f"{split}-{sentence}-{pair}-{example}",
                "sentence": f"There are {sentence} dögs\nin one image, {pair}.",
                "label": str((sentence + pair + example) % 2 == 0),
                "writer": "42",
                "left_url": "https://example.org/left.jpg",
                "right_url": "https://example.org/right.jpg",
                "synset": "dog",
            }
            | ({"directory": sentence % 3} if split == "train" else {})
            for example in range(3)
            for sentence in range(4)
            for pair in range(2)
            if example <= sentence
        ]
        if split != "train":
            splits[f"balanced_{split}"], splits[f"unbalanced_{split}"] = splits[split][:7], splits[split][5:]
    return splits


def pictures(example: dict) -> list[str]:
    """Paths of the left and the right image."""
    split, sentence, pair, _ = example["identifier"].split("-")
    folder = FOLDERS.get(split, split) + (f"/{example['directory']}" if "directory" in example else "")
    return [f"{folder}/{split}-{sentence}-{pair}-img{side}.png" for side in (0, 1)]


def write(root: Path, splits: dict[str, list[dict]]) -> None:
    for split, examples in splits.items():
        path = root / FILES[split]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(example) + "\n" for example in examples))
    for number, file in enumerate(
        sorted({file for examples in build().values() for e in examples for file in pictures(e)})
    ):
        write_pictures((root / file).parent, {Path(file).name: photograph(number)})  # .png that holds JPEG
