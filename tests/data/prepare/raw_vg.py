"""Visual Genome in miniature, in its official raw layout; and its annotations at any size."""

from __future__ import annotations

import json
from pathlib import Path

from data.prepare.raw_files import write_pictures

FOLDERS = ("VG_100K", "VG_100K_2")
# phrase, x, y, width, height: over every border, thinner than a pixel, the same phrase twice, text as people type it
REGIONS = [
    ("a dog", 1, 2, 30, 40),
    ("a dog", -7, -3, 500, 600),
    (" die Tür\nist grün ", 127, 95, 0, 1),
    ("   ", 5, 5, 5, 5),
    ("the last", 10, 20, 64, 32),
]


def write(root: Path, pictures: dict[int, bytes | None], **changes) -> list[dict]:
    """Return the entries; even images lie in the first folder, `changes` are set in the first entry."""
    for place, folder in enumerate(FOLDERS):
        own = {f"{number}.jpg": content for number, content in pictures.items() if number % 2 == place}
        write_pictures(root / "images" / folder, own)
    entries = [{"id": number, "regions": regions_of(number, REGIONS)} for number in pictures]
    entries[0].update(changes)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / "region_descriptions.json").write_text(json.dumps(entries))
    return entries


def regions_of(picture: int, regions: list[tuple[str, int, int, int, int]]) -> list[dict]:
    return [
        {
            **{"region_id": 1000 * picture + n, "width": width, "height": height, "image_id": picture},
            **{"phrase": phrase, "y": y, "x": x},
        }
        for n, (phrase, x, y, width, height) in enumerate(regions)
    ]


def write_large(root: Path, picture: bytes, pictures: int, regions: int) -> None:
    """Write `pictures` entries of `regions` regions each; the images are names of a few equal files."""
    for folder in ("annotations", *(f"images/{name}" for name in FOLDERS)):
        (root / folder).mkdir(parents=True)
    source = None
    with open(root / "annotations" / "region_descriptions.json", "w") as file:
        for number in range(pictures):
            target = root / "images" / FOLDERS[number % 2] / f"{number}.jpg"
            if number % 20_000 == 0:  # a file of ext4 has at most 65,000 names
                target.write_bytes(picture)
                source = target
            else:
                target.hardlink_to(source)
            own = [(f"phrase {n} of image {number}", n, number % 600, 300, 400) for n in range(regions)]
            file.write(("," if number else "[") + json.dumps({"id": number, "regions": regions_of(number, own)}))
        file.write("]")
