"""How long a JPEG file can keep a decoder busy, found out before it is decoded.

A progressive JPEG is coded in scans, each a pass over the whole picture (ITU-T T.81, annex G): writers make about ten of them.
Hundreds of empty scans fit a small file and take a minute. Segments before the picture are joined by Pillow one by one.
"""

from __future__ import annotations

import re

from .formats import MAX_PIXELS

MOST_SCANS = 100
MOST_SEGMENTS = 1000  # a colour profile has at most 255 of them
_FEW = 20  # scans that any picture may have: of MAX_PIXELS they take two seconds
_SOS, _EOI = 0xDA, 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers that give the size, table B.1
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
# The next marker with a segment: no stuffed or fill byte, no restart (D0 to D7), none of those that stand alone.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")


def refuse_slow(content: bytes) -> None:
    """Refuses a JPEG file that would keep a decoder busy out of all proportion; any other content passes.

    Raises:
        ValueError: why.
    """
    if content[:2] != b"\xff\xd8":
        return
    at, scans, pixels, components = 2, 0, 0, None
    for _ in range(MOST_SEGMENTS):
        found = _MARKER.search(content, at)
        marker = content[found.start() + 1] if found else _EOI
        if marker == _EOI:
            return
        at = found.end()
        if marker in _FRAMES:
            height, width = (int.from_bytes(content[at + start : at + start + 2], "big") for start in (3, 5))
            pixels = max(pixels, height * width)
            components = None if marker in _PROGRESSIVE else content[at + 7 : at + 8]
        if marker == _SOS:
            # Mostly one scan has all components, or there are a few: then there is no need to look for more of them.
            if scans == 0 and (components == content[at + 2 : at + 3] or content.count(b"\xff\xda") <= _FEW):
                return
            scans += 1
        if scans > MOST_SCANS or scans * pixels > _FEW * MAX_PIXELS:
            raise ValueError(f"its {pixels:,} pixels are coded in {scans} or more passes, which takes too long")
        at += int.from_bytes(content[at : at + 2], "big")
    raise ValueError(f"it has more than {MOST_SEGMENTS:,} segments")
