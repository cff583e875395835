"""`python run.py demo with key=value`: the demo's own experiment and settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sacred import Experiment

from renaissance.errors import UserError

ex = Experiment("demo", save_git_info=False)


@ex.config
def defaults():
    root = "demo"  # folder of everything that the demo writes
    seed = 0  # of the world and of both models
    steps = 1450  # optimizer steps of each model; each finetuning run takes a fixed share of them
    pictures = 6000  # pictures of the train split
    demo_tasks = None  # finetune afterwards on: all, or some of vqa,nlvr2,snli,ref,irtr,pairs,classes


def main(values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Runs the demo.

    Raises:
        UserError: a setting that is not a whole number, or too small to split into groups.
    """
    for name, least in (("seed", 0), ("steps", 10), ("pictures", 100)):
        if not isinstance(values[name], int) or isinstance(values[name], bool) or values[name] < least:
            raise UserError(f"{name}={values[name]!r} is not allowed: give a whole number of at least {least}.")
    from .finetune import chosen

    tasks = chosen(values["demo_tasks"])
    from .run import demo

    demo(str(values["root"]), values["seed"], values["steps"], values["pictures"], tasks)
