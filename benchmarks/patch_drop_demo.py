"""What `patch_drop` brings and costs on the demo's world: both models with and without, after equal time.

    python benchmarks/patch_drop_demo.py --steps 1450 --patch 16

Time is that of the processor, on one thread. A short run of each kind tells the seconds of a step, and so how many steps the
run that leaves patches out has in the time of the one that does not. The table is the demo's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pretrain_step import processor_name  # noqa: E402

from renaissance.demo.pretrain import pretrain  # noqa: E402
from renaissance.demo.run import RECIPES, write_world  # noqa: E402
from renaissance.demo.settings import demo_settings  # noqa: E402
from renaissance.demo.tables import pretraining_table  # noqa: E402
from renaissance.training.module import VisionLanguageModule  # noqa: E402
from renaissance.training.train import run  # noqa: E402

SHORT = 100  # steps of the runs that tell the seconds of a step
SEED = 0


def seconds_of_a_step(train: Callable[..., Any], *given: Any, **more: Any) -> float:
    """Calls a function that trains. Returns the seconds of the processor that a step takes, its data included."""
    begun: list[float] = []
    plain = VisionLanguageModule.training_step

    def step(self: VisionLanguageModule, *inputs: Any) -> Any:
        begun.append(time.process_time())
        return plain(self, *inputs)

    with contextlib.redirect_stdout(sys.stderr), mock.patch.object(VisionLanguageModule, "training_step", step):
        train(*given, **more)
    taken = [after - before for before, after in pairwise(begun)]
    return statistics.quantiles(taken, n=4)[0]  # of the quicker ones, as other work makes some slow


def report(root: Path, options: argparse.Namespace) -> None:
    write_world(root, SEED, options.pictures)
    figures: dict[str, Any] = {}
    lines = []
    for name, recipe in RECIPES.items():
        ways = {
            f"{name}, {share:g}": {"patch_drop": share, "patch_size": options.patch} for share in (0, options.share)
        }
        short = {
            "exp_name": "short",
            "seed": SEED,
            "max_steps": min(SHORT, options.steps),
            "accelerator": "cpu",
            "eval_limit": 8,
        }
        seconds = {
            way: seconds_of_a_step(run, demo_settings(root, [recipe], short | more)) for way, more in ways.items()
        }
        for way, more in ways.items():
            steps = round(options.steps * seconds[f"{name}, 0"] / seconds[way])
            took = seconds_of_a_step(pretrain, recipe, root, SEED, steps, **more)
            figures[way] = json.loads((root / f"{recipe}.json").read_text(encoding="utf-8"))["figures"]
            lines.append(
                f"{way}: {1000 * seconds[way]:.1f} ms a step ({1000 * took:.1f} in the long run), {steps:,} steps"
            )
    print("## Patch dropping in the demo (`benchmarks/patch_drop_demo.py`)\n")
    print(
        f"{date.today()}, {processor_name()}, 1 thread, torch {torch.__version__}, seed {SEED}, patches of {options.patch} px.\n"
    )
    print("\n".join(("```text", *lines, "", pretraining_table(figures), "```")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1450, help="of the run on all patches")
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--patch", type=int, default=16, help="pixels of a patch's side, of images of 48")
    parser.add_argument("--share", type=float, default=0.5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        report(Path(folder), options)


if __name__ == "__main__":
    main()
