"""`python run.py demo with key=value`: the demo's own experiment and settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sacred import Experiment

from renaissance.core.errors import UserError
from renaissance.settings.rules import text, whole

ex = Experiment("demo", save_git_info=False)


@ex.config
def defaults():
    root = "demo"  # folder of everything that the demo writes
    seed = 0  # of the world and of both models
    steps = 1450  # optimizer steps of each model; each finetuning run takes a fixed share of them
    pictures = 6000  # pictures of the train split
    demo_tasks = None  # finetune afterwards on: all, or some of vqa,nlvr2,snli,ref,irtr,pairs,classes


CHECKS = {"root": text("a folder"), "seed": whole(0, most=2**63 - 1), "steps": whole(10), "pictures": whole(100)}


def main(values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Runs the demo.

    Raises:
        UserError: a setting that is of another kind, or too small to split into groups.
    """
    for name, check in CHECKS.items():
        if problem := check.problem(name, values[name]):
            raise UserError(problem)
    root, seed, steps, pictures = (check.convert(values[name]) for name, check in CHECKS.items())
    from renaissance.demo.finetune import chosen

    tasks = chosen(values["demo_tasks"])
    from renaissance.demo.run import demo

    demo(root, seed, steps, pictures, tasks)
