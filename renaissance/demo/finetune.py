"""Finetunes the demo's pretrained models on the downstream tasks of its world, through the same code path as any other run.

    raw downloads of each task -> the real writers -> task_finetune_* from best.ckpt, one run a core -> one table

The table compares each task with a blind run and with chance or the most frequent answer.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from renaissance.core.errors import require, suggest
from renaissance.data.datasets import open_pairs
from renaissance.data.prepare import foil_probes, images, karpathy, nlvr2, refcoco, snli, vqa
from renaissance.settings.resolver import ConfigResolver

from . import raw_tasks
from .questions import is_relation
from .raw_probes import write_valse
from .raw_tasks import Sizes
from .settings import demo_settings
from .world import RELATIONS


class DemoTask(NamedTuple):
    """A downstream task of the demo.

    Attributes:
        preset: of config.py. task: name of its file in tasks/.
        share: optimizer steps of each run, relative to pretraining. cost: seconds of a step, relative to VQA.
        write: writes the raw download; make: converts it, None if it is read as it is.
        sizes: of the raw download.
        split: of results.json to show. metrics: of that split, first the one of `baseline`.
        kinds: of runs: "two_tower", "one_tower", "blind" and "scratch" (the last two with the two-tower model).
        given: more settings.
    """

    preset: str
    task: str
    share: float
    cost: float
    write: Callable[[Path, int, Sizes], None]
    make: Callable[..., Any] | None
    sizes: Sizes
    split: str
    metrics: tuple[str, ...]
    kinds: tuple[str, ...]
    given: Mapping[str, Any] = {}


BESIDE = ("_blind", "_text_only")
"""Endings of a probe's figures without its pictures."""

APART = ("without_relations", "relations")
"""The first metric of a task over examples without and with a spatial relation."""

# Shares and sizes are chosen so that each threshold of tests/demo/test_demo.py is met with a margin.
TASKS = {
    "vqa": DemoTask(
        preset="task_finetune_vqa", task="vqa", share=0.7, cost=1,
        write=raw_tasks.write_vqa, make=vqa.make_arrow, sizes=Sizes(train=3000, val=0, test=300),
        split="val", metrics=("vqa_score", *APART), kinds=("blind", "two_tower", "one_tower", "scratch"),
    ),
    "nlvr2": DemoTask(
        preset="task_finetune_nlvr2", task="nlvr2", share=0.4, cost=1.5,
        write=raw_tasks.write_nlvr2, make=nlvr2.make_arrow, sizes=Sizes(train=600, val=40, test=100),
        split="test", metrics=("accuracy", "consistency"), kinds=("blind", "two_tower", "one_tower"),
    ),
    "snli": DemoTask(
        preset="task_finetune_snli", task="snli", share=0.3, cost=1,
        write=raw_tasks.write_snli, make=snli.make_arrow, sizes=Sizes(train=2700, val=60, test=200),
        split="test", metrics=("accuracy",), kinds=("blind", "two_tower"),
    ),
    "ref": DemoTask(
        preset="task_finetune_ref", task="ref", share=0.15, cost=1.5,
        write=raw_tasks.write_refcoco, make=refcoco.make_arrow, sizes=Sizes(train=1000, val=40, test=160),
        split="testA", metrics=("accuracy",), kinds=("two_tower",), given={"batch_size": 16},
    ),
    "irtr": DemoTask(
        preset="task_finetune_irtr_f30k", task="irtr", share=0.3, cost=4,
        write=raw_tasks.write_f30k, make=partial(karpathy.make_arrow, dataset="f30k"), sizes=Sizes(train=2700, val=50, test=100),
        split="test", kinds=("two_tower", "one_tower"), given={"batch_size": 16, "draw_false_text": 5},
        metrics=("text_to_image_r1", *APART, "text_to_image_r5", "image_to_text_r1", "image_to_text_r5"),
    ),
    "pairs": DemoTask(
        preset="task_finetune_mrpc", task="glue", share=0.3, cost=0.4,
        write=raw_tasks.write_mrpc, make=None, sizes=Sizes(train=4000, val=0, test=400),
        split="val", metrics=("accuracy_and_f1", "accuracy", "f1"), kinds=("two_tower",),
    ),
    "classes": DemoTask(
        preset="task_finetune_images", task="images", share=0.15, cost=0.5,
        write=raw_tasks.write_classes, make=images.make_arrow, sizes=Sizes(train=1000, val=100, test=200),
        split="test", metrics=("accuracy",), kinds=("two_tower",),
    ),
    # Nothing is trained: what the pretrained models tell from a foil.
    "probes": DemoTask(
        preset="task_probe_valse", task="probe", share=0, cost=1,
        write=write_valse, make=partial(foil_probes.make_arrow, dataset="valse"), sizes=Sizes(train=0, val=0, test=300),
        split="valse", kinds=("two_tower", "one_tower"), given={"eval_batch_size": 100},
        metrics=(
            "acc_r", "acc_r_attribute_swap", "acc_r_object_swap", "acc_r_count", "acc_r_colours_exchanged",
            "acc_r_relation_turned",
        ),
    ),
}  # fmt: skip


class FinetuneRun(NamedTuple):
    """Attributes: task, a key of `TASKS`; kind, one of its kinds; steps, optimizer steps."""

    task: str
    kind: str
    steps: int

    @property
    def name(self) -> str:
        return f"{self.task}_{self.kind}"


def selected_tasks(demo_tasks: Any) -> list[str]:
    """The tasks of the setting `demo_tasks`.

    Raises:
        UserError: it names something else.
    """
    if demo_tasks == "all":
        return list(TASKS)
    names = demo_tasks.split(",") if isinstance(demo_tasks, str) else demo_tasks or ()
    for name in names:
        advice = f"{suggest(name, TASKS)}; give all, or some of {', '.join(TASKS)}"
        require(name in TASKS, f"demo_tasks={demo_tasks!r}: the demo has no task {name!r}{advice}.")
    return list(dict.fromkeys(names))


def write_tasks(folder: Path, seed: int, names: Sequence[str]) -> None:
    """Writes and converts the raw downloads of these tasks; those of an earlier demo are deleted."""
    for name in names:
        task = TASKS[name]
        if task.make is None:
            task.write(folder / "arrow", seed, task.sizes)
            continue
        raw = folder / "raw_tasks" / name
        shutil.rmtree(raw, ignore_errors=True)
        task.write(raw, seed, task.sizes)
        task.make(raw, folder / "arrow")


def blocks(names: Sequence[str], steps: int) -> list[list[FinetuneRun]]:
    """The runs of these tasks, longest first. The runs of a block are in order: a blind run before the one that reports it.

    Args:
        steps: of pretraining.
    """
    result = []
    for name in names:
        task = TASKS[name]
        runs = {kind: FinetuneRun(name, kind, max(1, round(task.share * steps))) for kind in task.kinds}
        if "blind" in runs:
            result.append([runs.pop("blind"), runs.pop("two_tower")])
        result += [[run] for run in runs.values()]
    return sorted(result, key=lambda block: -sum(run.steps * TASKS[run.task].cost for run in block))


def run_settings(run: FinetuneRun, folder: Path, seed: int, checkpoints: Mapping[str, str]) -> ConfigResolver:
    """The settings of a run: its preset and the demo's part.

    Args:
        checkpoints: best.ckpt of "two_tower" and "one_tower".
    """
    task, model = TASKS[run.task], ("demo_run", "demo_two") if run.kind == "scratch" else ()
    given = {"exp_name": run.name, "seed": seed, "max_steps": run.steps, "val_check_interval": -(-run.steps // 3)}
    if run.kind != "scratch":
        given["load_path"] = checkpoints["one_tower" if run.kind == "one_tower" else "two_tower"]
    if run.kind == "blind":
        given["blind"] = True
    if run.kind == "two_tower" and "blind" in task.kinds:
        given["blind_run"] = str(newest(folder, run.task, "blind"))
    return demo_settings(folder, (*model, task.preset, "demo_finetuning"), {**given, **task.given})


def finetune(block: Sequence[FinetuneRun], folder: Path, seed: int, checkpoints: Mapping[str, str]) -> None:
    """Trains the runs of a block, one after the other."""
    from renaissance.training.train import run as train

    for run in block:
        train(run_settings(run, folder, seed, checkpoints))


def newest(folder: Path, task: str, kind: str) -> Path:
    """The folder of the last run of this task and kind."""
    folders = (folder / "runs" / f"{task}_{kind}").glob("version_*")
    return max(folders, key=lambda path: int(path.name.rpartition("_")[2]))


def figures(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Metrics of these tasks on held-out scenes.

    Returns:
        {task: {"examples": how many, kind of run or "baseline": {metric: value}}}; of a probe also kinds with `BESIDE`.
    """
    from renaissance.tasks import task_class

    result: dict[str, dict[str, Any]] = {}
    for name in names:
        task, figures = TASKS[name], result.setdefault(name, {})
        for kind in task.kinds:
            path = newest(folder, name, kind)
            results = json.loads((path / "results.json").read_text(encoding="utf-8"))
            frame = pd.read_parquet(path / "predictions" / f"{task.task}_{task.split}.parquet")
            values = dict(results[task.split][task.task])
            if "relations" in task.metrics:
                relations = _about_relations(frame, folder)
                values |= {key: float(frame["score"][relations == (key == "relations")].mean()) for key in APART}
            figures[kind] = {metric: values[metric] for metric in task.metrics}
            for ending in BESIDE if task.task == "probe" else ():
                figures[f"{kind}{ending}"] = {metric: values[f"{metric}{ending}"] for metric in task.metrics}
        figures["baseline"] = {task.metrics[0]: task_class(task.task).baseline(frame)[1]}
        figures["examples"] = len(frame)
    return result


def _about_relations(frame: pd.DataFrame, folder: Path) -> pd.Series:
    """Whether each example, a question of VQA or a text of retrieval, is about a relation."""
    if "question_type" in frame:
        return frame["question_type"].map(is_relation)
    pairs = open_pairs(["f30k"], "test", folder / "arrow")
    return frame["position"].map(lambda place: any(relation in pairs.text(int(place)) for relation in RELATIONS))
