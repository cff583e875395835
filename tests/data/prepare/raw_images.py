"""Class folders, and CIFAR-10 in miniature as its authors' Python 2 pickled it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.prepare.raw_files import photograph, write_pictures

CLASSES = ("cat", "a dog", "Äpfel")  # not in the order of their numbers
CIFAR_CLASSES = ["airplane", "automobile", "bird"]
CIFAR_BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")


def write_folders(root: Path, splits: tuple[str, ...], each: int = 4) -> dict[str, tuple[str, bytes]]:
    """Return path below root -> (class, content); a split "" stands for class folders right below root."""
    written = {}
    for split in splits:
        for place, name in enumerate(CLASSES):
            contents = {f"{number}.jpg": photograph(10 * place + number) for number in range(each)}
            write_pictures(root / split / name, contents)
            written |= {Path(split, name, file).as_posix(): (name, content) for file, content in contents.items()}
    return written


def write_cifar(folder: Path, columnwise: bool = False, **changes) -> dict[str, list[tuple[np.ndarray, int]]]:
    """Return batch -> (H, W, 3) pixels and label of its images, in order; `changes` are set in every batch."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {"num_cases_per_batch": 12, "label_names": CIFAR_CLASSES, "num_vis": 3072}
    (folder / "batches.meta").write_bytes(b"\x80\x02" + pickled(names) + b".")
    written: dict[str, list] = {}
    for number, batch in enumerate(CIFAR_BATCHES):
        random = np.random.default_rng(number)
        pixels = random.integers(0, 256, (12, 3072), dtype=np.uint8)
        labels = random.integers(0, 3, 12).tolist()
        content = {
            "batch_label": f"training batch {number + 1} of 5",
            "labels": labels,
            "data": np.asfortranarray(pixels) if columnwise else pixels,
            "filenames": [f"thing_s_{n:06d}.png" for n in range(12)],
        }
        (folder / batch).write_bytes(b"\x80\x02" + pickled(content | changes) + b".")
        planes = pixels.reshape(12, 3, 32, 32)  # red, green, blue, each row by row
        written[batch] = [(np.stack(list(each), axis=-1), label) for each, label in zip(planes, labels, strict=True)]
    return written


def pickled(value: object) -> bytes:
    """Protocol 2 of Python 2: text is bytes, an array of numpy goes by numpy's old module."""
    if isinstance(value, dict):
        return b"}(" + b"".join(pickled(key) + pickled(each) for key, each in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(pickled, value)) + b"e"
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, int):
        return b"J" + value.to_bytes(4, "little", signed=True)
    content = value if isinstance(value, bytes) else str(value).encode()
    return b"T" + len(content).to_bytes(4, "little") + content


def _array(value: np.ndarray) -> bytes:
    shape = b"(" + b"".join(map(pickled, value.shape)) + b"t"
    kind = b"cnumpy\ndtype\n" + pickled(value.dtype.str[1:]) + pickled(0) + pickled(1) + b"\x87R"
    kind += b"(" + pickled(3) + pickled("|") + b"NNN" + pickled(-1) + pickled(-1) + pickled(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + pickled(0) + b"\x85" + pickled("b") + b"\x87R"
    by_columns = value.ndim > 1 and value.flags.f_contiguous
    content = value.tobytes(order="F" if by_columns else "C")
    return array + b"(" + pickled(1) + shape + kind + (b"\x88" if by_columns else b"\x89") + pickled(content) + b"tb"
