"""Data sets as mixes of files: which files, which pairs, in which order; what is refused. Files are made by pyarrow."""

from __future__ import annotations

import hashlib
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from renaissance.core.errors import UserError
from renaissance.core.types import Example
from renaissance.data import dataset_specs
from renaissance.data import pairs as pairs_module
from renaissance.data.datasets import PairDataset, open_pairs, open_samples
from renaissance.data.identity import content_key, text_key


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "renaissance"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "arrow").mkdir()
    return tmp_path / "arrow"


def write(folder: Path, name: str, captions: list[list[str]] | None = None, rows_per_batch: int | None = None) -> None:
    captions = [[f"a caption of {name}"]] if captions is None else captions
    table = pa.table(
        {
            "image": [f"{name} {row}".encode() for row in range(len(captions))],
            "caption": pa.array(captions, pa.list_(pa.string())),
        }
    )
    with pa.ipc.new_file(str(folder / name), table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_per_batch)


def files_of(data: PairDataset) -> list[str]:
    return [summary.file for summary in data.describe()]


COCO = {split: f"coco_caption_karpathy_{split}.arrow" for split in ("train", "restval", "val", "test")}


# -- which files ----------------------------------------------------------------------------------------------------


def test_the_splits_of_every_data_set(folder: Path):
    """The literal table of the formats: training has no validation or test file, whatever the old systems did."""
    f30k = {split: f"f30k_caption_karpathy_{split}.arrow" for split in ("train", "val", "test")}
    gcc = [f"conceptual_caption_train_{shard}.arrow" for shard in range(12)]
    sbu = ["sbu_0.arrow", "sbu_1.arrow"]
    for name in [*COCO.values(), *f30k.values(), "vg.arrow", *gcc, "conceptual_caption_val_0.arrow", *sbu]:
        write(folder, name)
    mix = ["vg", "coco", "gcc", "f30k", "sbu"]
    expected = ["vg.arrow", COCO["train"], COCO["restval"], *gcc, f30k["train"], *sbu]  # shard 2 before shard 10
    assert files_of(open_pairs(mix, "train", folder)) == expected
    assert files_of(open_pairs(mix, "val", folder)) == [COCO["val"], "conceptual_caption_val_0.arrow", f30k["val"]]
    assert files_of(open_pairs(mix, "test", folder)) == [COCO["test"], f30k["test"]]
    assert open_pairs(["vg", "sbu"], "val", folder) is None


def test_own_captions_by_name(folder: Path):
    for name in ("captions_train.arrow", "captions_val.arrow", "mine.arrow"):
        write(folder, name)
    assert files_of(open_pairs(["captions", "mine"], "train", folder)) == ["captions_train.arrow", "mine.arrow"]
    assert files_of(open_pairs(["captions", "mine"], "val", folder)) == ["captions_val.arrow"]
    assert open_pairs(["captions"], "test", folder) is None


def refusal(names: list[str], folder: Path, **options) -> str:
    with pytest.raises(UserError) as error:
        open_pairs(names, "train", folder, **options)
    return str(error.value)


def test_refuses_what_is_missing(folder: Path):
    write(folder, COCO["train"])
    assert "data_root=" in refusal(["coco"], folder / "none")
    message = refusal(["coco"], folder)
    assert f"'coco' needs {COCO['restval']}" in message
    assert f"the arrow files there are: {COCO['train']}." in message
    assert "'cocoa' (nearest: coco) needs cocoa_train.arrow or cocoa.arrow" in refusal(["cocoa"], folder)
    assert "needs sbu_0.arrow" in refusal(["sbu"], folder)
    assert "datasets=[]" in refusal([], folder)
    write(folder, "mine.arrow")
    assert """To go on with what is there, give datasets='["mine"]'.""" in refusal(["vg", "mine"], folder)
    assert "more than once" in refusal(["coco", "vg", "coco"], folder)


def test_refuses_holes_between_shards(folder: Path):
    for shard in (0, 2, 4):
        write(folder, f"sbu_{shard}.arrow")
    message = refusal(["sbu"], folder)
    assert "lacks 2 shards" in message
    assert "sbu_1.arrow, sbu_3.arrow; complete them, or give allow_missing_shards=True" in message
    pairs = open_pairs(["sbu"], "train", folder, allow_missing_shards=True)
    assert (len(pairs), pairs.missing_shards) == (3, ("sbu_1.arrow", "sbu_3.arrow"))


def test_refuses_to_train_on_one_split_by_its_file_name(folder: Path):
    for name in (*COCO.values(), "mine_val.arrow", "both.arrow", "both_train.arrow"):
        write(folder, name)
    assert 'give datasets=["coco"]' in refusal(["coco_caption_karpathy_val"], folder)
    assert 'give datasets=["mine"]' in refusal(["mine_val"], folder)
    assert "which is a path" in refusal(["../arrow/mine"], folder)
    assert "must mean one of them" in refusal(["both"], folder)


def test_refuses_a_data_set_of_empty_captions(folder: Path):
    write(folder, "mine.arrow", [["", " \n"], []])
    assert "No caption in mine.arrow" in refusal(["mine"], folder)


# -- which pairs ----------------------------------------------------------------------------------------------------

CAPTIONS = [["a dog", "", " a\tdog ", "A dog", "a dog"], [], ["one"], ["a dog", "\n"], ["x", "y", "x"]]


@pytest.mark.parametrize("rows_per_batch", [None, 1, 2])
def test_training_counts_repeated_captions_once_and_evaluation_all(folder: Path, rows_per_batch: int | None):
    for split in ("train", "val"):
        write(folder, f"captions_{split}.arrow", CAPTIONS, rows_per_batch)
    train = open_pairs(["captions"], "train", folder)
    assert [(pair.text, pair.where) for pair in map(train.__getitem__, range(len(train)))] == [
        ("a dog", "captions_train.arrow row 0"),
        ("A dog", "captions_train.arrow row 0"),
        ("one", "captions_train.arrow row 2"),
        ("a dog", "captions_train.arrow row 3"),
        ("x", "captions_train.arrow row 4"),
        ("y", "captions_train.arrow row 4"),
    ]
    assert train.describe() == [("captions", "captions_train.arrow", 5, 6)]
    val = open_pairs(["captions"], "val", folder)
    assert [val[i].text for i in range(len(val))] == [" ".join(text.split()) for own in CAPTIONS for text in own]
    assert val.describe() == [("captions", "captions_val.arrow", 5, 11)]


def test_a_pair_is_all_that_was_stored(folder: Path):
    write(folder, "mine.arrow", [["a"], ["Two  dogs", "ein Hund"]])
    pair = open_pairs(["mine"], "train", folder)[2]
    assert pair == Example(
        2,
        (b"mine.arrow 1",),
        "ein Hund",
        frozenset({text_key("two dogs"), text_key("ein hund")}),
        content_key(b"mine.arrow 1"),
        "mine.arrow row 1",
        metadata={"id": 2},
    )


def test_random_files_agree_with_a_plain_reading(folder: Path):
    """Against Python loops over many files, batches and repeats; once more from the cache."""
    rng = np.random.default_rng(0)
    expected = []
    for shard in range(5):
        rows = [[f"{c}" if c else " " for c in rng.integers(0, 6, rng.integers(0, 8))] for _ in range(60)]
        write(folder, f"sbu_{shard}.arrow", rows, rows_per_batch=int(rng.integers(1, 40)))
        for row, own in enumerate(rows):
            kept = dict.fromkeys(text for text in own if text.strip())
            expected += [(f"sbu_{shard}.arrow {row}".encode(), text) for text in kept]
    for _ in range(2):
        data = open_pairs(["sbu"], "train", folder)
        assert [(pair.images[0], pair.text) for pair in map(data.__getitem__, range(len(data)))] == expected
    for outside in (-1, len(expected)):
        with pytest.raises(IndexError):
            data[outside]


def test_repeats_are_found_once_and_kept_in_the_cache(folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch):
    write(folder, "mine.arrow", CAPTIONS)
    write(folder, "clean.arrow", [["a", "b"]])
    before = [open_pairs([name], "train", folder)[0] for name in ("mine", "clean")]
    assert len(records := list(own_cache.glob("*.repeats.json"))) == 2
    monkeypatch.setattr(pairs_module, "find_gaps", lambda path: pytest.fail("searched again"))
    assert [open_pairs([name], "train", folder)[0] for name in ("mine", "clean")] == before
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_cache.parent))
    for record in records:
        record.unlink()
    assert open_pairs(["mine"], "train", folder)[3].text == "a dog"


# -- size, processes, changes ---------------------------------------------------------------------------------------


def test_a_thousand_shards_open_in_a_second_and_pickle_small(folder: Path):
    for shard in range(1000):
        name = f"conceptual_caption_train_{shard}.arrow"
        if shard == 0:
            write(folder, name, [["a", "a"], ["b"]])
            content = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
    open_pairs(["gcc"], "train", folder)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        data = open_pairs(["gcc"], "train", folder)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 1
    assert len(data) == 2000
    assert data[1999].where == "conceptual_caption_train_999.arrow row 1"
    pickled = pickle.dumps(data)
    assert len(pickled) < 10_000 + 100 * 1000
    assert (
        len(pickle.dumps(open_samples("gcc", "train", folder, sample_kind=dataset_specs.CAPTIONS)))
        < 10_000 + 100 * 1000
    )
    copy = pickle.loads(pickled)
    assert copy[1998] == data[1998]
    assert copy.describe() == data.describe()


def test_captions_take_no_memory_of_their_own(folder: Path):
    """A million captions: what opening and reading allocates outside the map stays far under one object each."""
    import tracemalloc

    count = 1_000_000
    texts = pa.array([f"caption {number}" for number in range(1000)]).take(pa.array(np.arange(count) % 1000))
    lists = pa.ListArray.from_arrays(pa.array(np.arange(0, count + 1, 5), pa.int32()), texts)
    table = pa.table({"image": pa.array([b"x"] * (count // 5)), "caption": lists})
    with pa.ipc.new_file(str(folder / "mine.arrow"), table.schema) as writer:
        writer.write_table(table)
    del texts, lists, table
    open_pairs(["mine"], "train", folder)
    arrow_before = pa.total_allocated_bytes()
    tracemalloc.start()
    data = open_pairs(["mine"], "train", folder)
    last = data[count - 1]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert last.text == "caption 999"
    assert peak + pa.total_allocated_bytes() - arrow_before < 1_000_000


def test_a_file_that_changes_while_in_use_is_refused(folder: Path):
    write(folder, "mine.arrow")
    data = pickle.dumps(open_pairs(["mine"], "train", folder))
    os.utime(folder / "mine.arrow", ns=(1, 1))
    with pytest.raises(UserError, match="was changed since this run began"):
        pickle.loads(data)[0]


def test_fingerprint_tells_contents_apart(folder: Path):
    prints = []
    for captions in ([["a"], ["b"]], [["a"], ["c"]], [["a"], ["b"]]):
        write(folder, "mine.arrow", captions)
        prints.append(open_pairs(["mine"], "train", folder).fingerprint()["mine.arrow"])
    for each in prints:
        assert each.pop("mtime_ns") > 0
    assert prints[0] == prints[2] != prints[1]
    assert (prints[0]["pictures"], prints[0]["pairs"]) == (2, 2)


def test_keys_are_stable_63_bit_hashes():
    digest = hashlib.blake2b(b"a dog", digest_size=8).digest()
    assert text_key("  A \n DOG") == content_key(b"a dog") == int.from_bytes(digest, "big") % 2**63
    assert text_key("STRASSE") == text_key("straße") != text_key("strase")
    assert len({content_key(bytes([value])) for value in range(256)}) == 256
