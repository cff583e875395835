"""Which split a name of a file, a folder or a split says."""

from __future__ import annotations

import functools
import re
import unicodedata

from renaissance.core.errors import UserError, printable, require

_SPLIT_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel", "development", "eval", "evaluation", "minival"),
    "test": ("test", "testing", "tst"),
    "train and val": ("trainval",),
}
_SPLIT_OF = {word: split for split, words in _SPLIT_WORDS.items() for word in words}
# Words that may stand beside one in the name of a folder of a split: "training_set", "val images", "Test2015".
_BESIDE = frozenset(
    {"a", "b", "c", "of", "data", "dataset", "folder", "image", "images", "img", "imgs", "photos", "pictures", "pics"}
    | {"part", "set", "shard", "split"}
)
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


@functools.lru_cache
def split_of(name: str, *, whole: bool = False) -> str | None:
    """Returns the split that a name contains (train, val or test, in any usual word and spelling), or None.

    All readers use this function, so that no validation set is read as training because of its name.

    Args:
        name: of a file (without what follows its last dot), a folder, or a split in a table.
        whole: only if it contains nothing else: "test_set" is a split, "test tube" may be a class.

    Raises:
        UserError: it contains two splits.
    """
    words = re.findall(r"[^\W\d_]+", unicodedata.normalize("NFC", name))
    words = [part.lower() for word in words for part in (_CAMEL.findall(word) if word.isascii() else [word])]
    found = {_SPLIT_OF[word] for word in words if word in _SPLIT_OF}
    if whole and any(word not in _SPLIT_OF and word not in _BESIDE for word in words):
        return None
    require(
        len(found) < 2 and "train and val" not in found,
        f"'{printable(name)}' says {' and '.join(sorted(found))}: it has to be of one split; rename or divide it.",
    )
    return next(iter(found), None)


def split_or_none(name: str, *, whole: bool = False) -> str | None:
    """As `split_of`; None for a name that contains two splits, such as annotations_trainval2017."""
    try:
        return split_of(name, whole=whole)
    except UserError:
        return None
