"""Content hashes by which negatives and leakage checks tell images and captions apart.

They are functions of the content alone: the same in every process, on every machine, in every run.
"""

from __future__ import annotations

import hashlib

_SIXTY_THREE_BITS = (1 << 63) - 1  # fits a signed 64-bit tensor


def content_key(content: bytes) -> int:
    """Returns a 63-bit hash, such as of an encoded image; equal bytes, and only those, share it."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") & _SIXTY_THREE_BITS


def text_key(caption: str) -> int:
    """Returns a 63-bit hash of the caption; captions that differ in case or white space only share it."""
    return content_key(" ".join(caption.casefold().split()).encode("utf-8", "surrogatepass"))
