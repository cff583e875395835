"""COCO's test split as `eccv_caption` knows it, whole or in part, in Karpathy's layout, with the real numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import eccv_caption
import numpy as np
from PIL import Image

from data.prepare.raw_files import encode, write_pictures

Rights = dict[str, dict[int, list[int]]]
EXTRA = (144_675, 467_259)  # captions that are right answers, but none of the first five of their image


class PartOfMetrics(eccv_caption.Metrics):
    """What the package knows of the first images that it asks about, and of their captions."""

    images = 24

    def __init__(self) -> None:
        super().__init__()
        captions = self.coco_gts["t2i"]
        asked = dict.fromkeys(captions[text][0] for text in self.eccv_gts["t2i"] if text in captions)
        chosen = {image: self.coco_gts["i2t"][image] for image in [*asked][: self.images]}
        texts = {text for of in chosen.values() for text in of}
        for name in ("coco_gts", "cxc_gts", "eccv_gts"):
            gts = getattr(self, name)
            setattr(self, name, {"i2t": _cut(gts["i2t"], chosen, texts), "t2i": _cut(gts["t2i"], texts, chosen)})


def _cut(rights: dict[int, list[int]], queries: Iterable[int], answers: Iterable[int]) -> dict[int, list[int]]:
    cut = {query: [right for right in of if right in answers] for query, of in rights.items() if query in queries}
    return {query: of for query, of in cut.items() if of}


def write(root: Path, metrics: eccv_caption.Metrics, without: Iterable[int] = ()) -> None:
    """Writes the split, with captions beyond the five that the package knows, and three images of every other split.

    Args:
        root: gets the folders of images and Karpathy's file.
        metrics: whose images and captions are written.
        without: captions that are left out.
    """
    draw, entries, extra = np.random.default_rng(0), [], [*EXTRA, *range(10**6, 10**6 + 8)]
    tests = {
        image: [*of, *extra[number : number + 1]] for number, (image, of) in enumerate(metrics.coco_gts["i2t"].items())
    }
    others = {split: {3 * n + i: [3 * n + i] for i in range(3)} for n, split in enumerate(("train", "restval", "val"))}
    for split, images in (others | {"test": tests}).items():
        folder = "train2014" if split == "train" else "val2014"
        for image, texts in images.items():
            name, pixels = f"COCO_{folder}_{image:012d}.jpg", draw.integers(0, 256, (16, 16, 3), np.uint8)
            write_pictures(root / folder, {name: encode(Image.fromarray(pixels), "JPEG")})
            sentences = [
                {"raw": f"a picture {image} by {text}", "sentid": text, "imgid": image}
                for text in texts
                if text not in without
            ]
            entries.append(
                {"filepath": folder, "filename": name, "split": split, "cocoid": image, "sentences": sentences}
            )
    (root / "karpathy").mkdir(parents=True, exist_ok=True)
    (root / "karpathy" / "dataset_coco.json").write_text(json.dumps({"images": entries, "dataset": "coco"}))
