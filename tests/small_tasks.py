"""Arrow files of every downstream task, tiny, out of official raw layouts by the real writers; and the words of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import small_probes
from data import raw_glue
from data.prepare import raw_f30k, raw_files, raw_images, raw_nlvr2, raw_refcoco, raw_snli, raw_vqa
from renaissance.data.prepare import images, karpathy, nlvr2, refcoco, snli, vqa
from renaissance.evaluation.metrics import MetricDetails

SMALL = (
    "cross_layer_hidden_size=32",
    "num_cross_layers=1",
    "num_cross_layer_heads=2",
    "image_size=32",
    "max_text_len=16",
    "batch_size=8",
    "per_gpu_batchsize=4",
    "eval_batch_size=4",
    "num_workers=0",
    "log_every_n_steps=1",
    "max_steps=3",
    "learning_rate=1e-3",
)
TOWERS = {
    "two-tower": ("image_encoder=facebook/deit-tiny-patch16-224", "text_encoder=google/electra-small-discriminator"),
    "one-tower": ("encoder=facebook/dino-vits16",),
}


class SmallTask(NamedTuple):
    """A downstream task in miniature.

    Attributes:
        preset: its name on the command line.
        write: makes its files: (raw folder, folder of the arrow files).
        splits: of results.json, those with labels.
        hidden: splits that get predictions alone.
        words: more of the command.
    """

    preset: str
    write: Callable[[Path, Path], object]
    splits: tuple[str, ...]
    hidden: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


def _vqa(raw: Path, arrows: Path) -> None:
    raw_vqa.write(raw, raw_vqa.build())
    vqa.make_arrow(raw, arrows, workers=1)


def _nlvr2(raw: Path, arrows: Path) -> None:
    raw_nlvr2.write(raw, raw_nlvr2.build())
    nlvr2.make_arrow(raw, arrows, workers=1)


def _snli(raw: Path, arrows: Path) -> None:
    raw_snli.write(raw, raw_snli.build())
    snli.make_arrow(raw, arrows, workers=1)


def _ref(raw: Path, arrows: Path) -> None:
    raw_refcoco.write(raw, *raw_refcoco.build())
    refcoco.make_arrow(raw, arrows, workers=1)


def _f30k(raw: Path, arrows: Path) -> None:
    raw_f30k.write(raw, {f"{number}.jpg": raw_files.photograph(number) for number in range(12)})
    karpathy.make_arrow(raw, arrows, dataset="f30k", workers=1)


def _images(raw: Path, arrows: Path) -> None:
    raw_images.write_folders(raw, ("train", "val", "test"))
    images.make_arrow(raw, arrows, workers=1)


def _vsr(raw: Path, arrows: Path) -> None:
    small_probes.arrows("vsr", raw, arrows)


def _glue(raw: Path, arrows: Path) -> None:
    raw_glue.write_tsv(arrows, "sst2")


TASKS = {
    "vqa": SmallTask("task_finetune_vqa", _vqa, ("val",), ("test-dev", "test")),
    "nlvr2": SmallTask(
        "task_finetune_nlvr2",
        _nlvr2,
        ("val", "test", "balanced_dev", "balanced_test1", "unbalanced_dev", "unbalanced_test1"),
    ),
    "snli": SmallTask("task_finetune_snli", _snli, ("val", "test")),
    "vsr": SmallTask("task_finetune_vsr", _vsr, ("val", "test")),
    "ref": SmallTask("task_finetune_ref", _ref, ("val", "testA", "testB")),
    "irtr": SmallTask("task_finetune_irtr_f30k", _f30k, ("val", "test"), words=("draw_false_text=3",)),
    "images": SmallTask("task_finetune_images", _images, ("val", "test")),
    "glue": SmallTask("task_finetune_sst2", _glue, ("val",), ("test",)),
}


@cache
def arrows(task: str, folder: Path) -> Path:
    """The folder of the task's arrow files below `folder`, written once."""
    raw, written = folder / task / "raw", folder / task / "arrow"
    written.mkdir(parents=True)
    TASKS[task].write(raw, written)
    return written


def words(task: str, folder: Path, kind: str = "two-tower", log: Path | None = None) -> list[str]:
    """The command of a small finetuning, `with` left out."""
    small = [word for word in SMALL if kind == "two-tower" or not word.startswith(("cross_", "num_cross"))]
    places = [f"data_root={arrows(task, folder)}", f"log_dir={log or folder / 'runs'}"]
    return [TASKS[task].preset, *TOWERS[kind], *small, *places, *TASKS[task].words]


def values(metrics: Mapping[str, MetricDetails]) -> dict[str, float]:
    """The values of metrics."""
    return {name: each.value for name, each in metrics.items()}
