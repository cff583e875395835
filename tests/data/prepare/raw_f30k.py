"""Flickr30k in miniature, in its official raw layout: `flickr30k-images/` and Karpathy's file."""

from __future__ import annotations

import json
from pathlib import Path

from data.prepare.raw_files import write_pictures

SPLITS = ("train", "val", "test")
ODD_TEXT = "  zwei Hündchen\nauf Gras "


def write(root: Path, pictures: dict[str, bytes | None], **changes) -> list[dict]:
    """Return the entries of "images"; every third image is of a split, `changes` are set in the first entry."""
    write_pictures(root / "flickr30k-images", pictures)
    entries = []
    for number, name in enumerate(pictures):
        texts = [f"caption {n} of {number}" for n in range(3)] + [ODD_TEXT, ODD_TEXT]
        sentences = [
            {"tokens": text.split(), "raw": text, "imgid": number, "sentid": 5 * number + n}
            for n, text in enumerate(texts)
        ]
        ids = [sentence["sentid"] for sentence in sentences]
        entry = {"sentids": ids, "imgid": number, "sentences": sentences, "split": SPLITS[number % 3], "filename": name}
        entries.append(entry)
    entries[0].update(changes)
    (root / "karpathy").mkdir(parents=True, exist_ok=True)
    (root / "karpathy" / "dataset_flickr30k.json").write_text(json.dumps({"images": entries, "dataset": "flickr30k"}))
    return entries
