"""`python run.py demo with key=value`: a generated world, two models that learn it, and what they learned."""

from pathlib import Path
from typing import Any

from renaissance.core.checks import flag, integer, path, task_list
from renaissance.demo.finetune import selected_tasks
from renaissance.demo.run import demo, run_folders


# fmt: off
class Demo:
    """How much of it"""

    root: path("a folder") = "demo"  # folder of everything that the demo writes
    seed: integer(0, 2**63 - 1) = 0  # of the world and of both models
    steps: integer(10) = 1450  # optimizer steps of each model; each finetuning run takes a fixed share of them
    pictures: integer(100) = 6000  # images of the train split
    demo_tasks: task_list = None  # finetune afterwards on: all, or some of vqa,nlvr2,snli,ref,irtr,pairs,classes,probes
    data_only: flag = False  # True: write the data, those of demo_tasks too, for runs and studies of your own, and stop
# fmt: on


def main(root: str, seed: int, steps: int, pictures: int, demo_tasks: Any, data_only: bool) -> None:
    """Runs the demo, and writes a page of each run and one over all; or writes the data alone.

    Raises:
        UserError: as of `demo`.
    """
    from renaissance.reports.page import FILE, report_all

    demo(root, seed, steps, pictures, demo_tasks, data_only=data_only)
    if not data_only:
        report_all(run_folders(Path(root), selected_tasks(demo_tasks)), Path(root) / FILE)
