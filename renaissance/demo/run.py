"""The demo: writes a world, prepares it like any download, pretrains both models side by side, and prints what they learned."""

from __future__ import annotations

import json
import multiprocessing
import re
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from renaissance.core.console import say
from renaissance.core.errors import UserError
from renaissance.core.launch import available_cores, lasting_imports
from renaissance.core.progress import Bar
from renaissance.data.prepare import captions, karpathy
from renaissance.runs.metrics_table import read_rows

from . import finetune
from .raw import ONE_OBJECT, write_coco, write_tokenizer
from .tables import finetuning_table, heat_map_table, pretraining_table, probe_table
from .world import make_scene, render

VAL, TEST = 200, 500  # held-out images, no more than there are to train on
RECIPES = {"two_tower": "demo_two_tower", "one_tower": "demo_one_tower"}
_CONTEXT = multiprocessing.get_context("spawn")


def demo(root: str, seed: int, steps: int, pictures: int, demo_tasks: Any, data_only: bool) -> dict[str, Any] | None:
    """Runs the demo and writes `<root>/demo.json` and `<root>/results.md`.

    Args:
        root: folder of everything that the demo writes.
        seed: of the world and of both models.
        steps: optimizer steps of each model.
        pictures: images of the train split; restval has a tenth of it.
        demo_tasks: downstream tasks that follow, as `finetune.selected_tasks` takes them.
        data_only: write the data of all that, and train nothing.

    Returns:
        The content of demo.json.

    Raises:
        UserError: there is no such task, the folder cannot be written, or a run fails.
    """
    tasks, folder, began = finetune.selected_tasks(demo_tasks), Path(root), time.monotonic()
    write_world(folder, seed, pictures)
    if tasks:
        say(f"writing the downloads of {', '.join(tasks)}")
        finetune.write_tasks(folder, seed, tasks)
    if data_only:
        say(f"\ndata_root={folder / 'arrow'}; the presets demo_two_tower and demo_one_tower take theirs from demo/")
        return None
    runs = _pretrain_both(folder, seed, steps)
    figures = {name: content["figures"] for name, content in runs.items()}
    tables = [pretraining_table(figures), heat_map_table(figures)]
    say("\n\n".join(tables))
    if tasks:
        figures["tasks"] = _finetune(folder, seed, steps, tasks, runs)
        tables += filter(None, (finetuning_table(figures["tasks"]), probe_table(figures["tasks"])))
        say("\n\n".join(tables[2:]))
    (folder / "demo.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    took = f"seed {seed}, {(time.monotonic() - began) / 60:.1f} minutes on {available_cores()} cores"
    written = "\n".join(f"```text\n{each}\n```\n" for each in tables)
    (folder / "results.md").write_text(f"# The demo\n\n{took}\n\n{written}", encoding="utf-8")
    say(f"\n{took}\nfigures: {folder / 'demo.json'}, tables: {folder / 'results.md'}")
    for name, content in runs.items():
        say(f"{name}: {content['run_folder']}")
    best = f"{runs['two_tower']['run_folder']}/checkpoints/best.ckpt"
    say(f"\nnext: python run.py with task_mlm_itm load_path={best} datasets='[\"coco\"]' data_root={folder / 'arrow'} "
          "max_steps=100 batch_size=32 log_dir=" + str(folder / "runs"))  # fmt: skip
    return figures


def run_folders(folder: Path, names: list[str]) -> dict[str, Path]:
    """The folders of the last demo's runs by name: both models, then those of these tasks, the blind one of a task first."""
    files = {name: folder / f"{recipe}.json" for name, recipe in RECIPES.items()}
    found = {name: Path(json.loads(file.read_text(encoding="utf-8"))["run_folder"]) for name, file in files.items()}
    kinds = [(name, kind) for name in names for kind in finetune.TASKS[name].kinds]
    return found | {f"{name} {kind}": finetune.newest(folder, name, kind) for name, kind in kinds}


def write_world(folder: Path, seed: int, pictures: int) -> None:
    """Official raw COCO downloads, the arrow files made of them, the tokenizer, and the shapes of the two encoders."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        say(f"writing {pictures:,} images with captions as COCO downloads to {folder / 'raw'}")
        held_out = {"val": min(VAL, pictures), "test": min(TEST, pictures)}
        write_coco(folder / "raw", seed=seed, train=pictures, restval=pictures // 10, **held_out)
    except OSError as error:
        raise UserError(f"root={folder} cannot be written ({error.strerror}); give another folder by root=.") from error
    karpathy.make_arrow(folder / "raw", folder / "arrow")
    captions.make_arrow(folder / "raw", folder / "arrow", name=Path(ONE_OBJECT).stem, annotations=ONE_OBJECT)
    write_models(folder, seed)


def write_models(folder: Path, seed: int) -> None:
    """The tokenizer, and the shapes of the two encoders."""
    from transformers import BertConfig, ViTConfig

    write_tokenizer(folder / "tokenizer")
    pieces = write_tokenizer(folder / "text_encoder")
    BertConfig(vocab_size=pieces, max_position_embeddings=64).save_pretrained(folder / "text_encoder")
    ViTConfig(image_size=48, patch_size=16).save_pretrained(folder / "image_encoder")
    statistics = json.dumps(pixel_statistics(seed))
    (folder / "image_encoder" / "preprocessor_config.json").write_text(statistics + "\n", encoding="utf-8")


def pixel_statistics(seed: int, scenes: int = 500) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel over the world's images, as an image processor states them."""
    pixels = np.stack([render(make_scene(seed, index)) for index in range(scenes)]).reshape(-1, 3) / 255
    return {"image_mean": pixels.mean(0).round(4).tolist(), "image_std": pixels.std(0).round(4).tolist()}


def _pretrain_both(folder: Path, seed: int, steps: int) -> dict[str, dict[str, Any]]:
    """Pretrains both models in parallel. Returns the content of the file that `pretrain` writes, by model."""
    from .pretrain import pretrain

    jobs = [partial(pretrain, recipe, folder, seed, steps) for recipe in RECIPES.values()]
    _side_by_side(folder, "pretraining", jobs, dict.fromkeys(RECIPES, steps))
    files = {name: folder / f"{recipe}.json" for name, recipe in RECIPES.items()}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}


def _finetune(
    folder: Path, seed: int, steps: int, names: list[str], runs: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Finetunes on the downstream tasks. Returns the figures of each."""
    checkpoints = {name: f"{content['run_folder']}/checkpoints/best.ckpt" for name, content in runs.items()}
    blocks = finetune.blocks(names, steps)
    jobs = [partial(finetune.finetune, block, folder, seed, checkpoints) for block in blocks]
    _side_by_side(folder, "finetuning", jobs, {run.name: run.steps for block in blocks for run in block})
    return finetune.figures(folder, names)


def _side_by_side(folder: Path, name: str, jobs: list[partial[None]], followed: dict[str, int]) -> None:
    """Runs jobs in parallel, one process a core, with one progress bar over all runs.

    Args:
        folder: of the demo.
        name: of the processes; number 0 writes to `<name>_0.log` in the folder.
        jobs: picklable.
        followed: {name of a run of the jobs: its steps}.
    """
    workers = min(len(jobs), available_cores())
    waiting = _CONTEXT.Queue()
    for job in (*jobs, *[None] * workers):
        waiting.put(job)
    logs = [folder / f"{name}_{number}.log" for number in range(workers)]
    processes = {log: _CONTEXT.Process(target=_do_jobs, args=(waiting, log, available_cores(workers))) for log in logs}
    began = time.time()
    for process in processes.values():
        process.start()
    try:
        _watch(processes, folder / "runs", followed, began, f"{name}, {len(followed)} runs")
    finally:
        for process in processes.values():
            process.terminate()
            process.join()


def _do_jobs(waiting: Any, log: Path, threads: int) -> None:
    """Runs jobs until it takes a None; the log gets all output, and the traceback of an exception."""
    with lasting_imports():
        import torch

        from renaissance.training import train  # noqa: F401  (else reading the first job imports it)

    torch.set_num_threads(threads)
    sys.stdout = sys.stderr = log.open("w", encoding="utf-8", errors="backslashreplace", buffering=1)
    for job in iter(waiting.get, None):
        job()


def _watch(processes: dict[Path, Any], runs: Path, followed: dict[str, int], began: float, title: str) -> None:
    """Shows one progress bar over all runs, from their metrics.csv, until the processes (by their logs) have ended.

    Raises:
        UserError: a process failed; its log is named.
    """
    with Bar(total=sum(followed.values()), unit="step", desc=title, miniters=0) as bar:
        while True:
            alive = [process for process in processes.values() if process.is_alive()]
            rows = {name: _last_row(runs / name, began) for name in followed}
            bar.update(sum(int(row["step"]) for row in rows.values() if row) - bar.n)
            unfinished = {name: row for name, row in rows.items() if row and int(row["step"]) < followed[name]}
            losses = {f"{name} {key.partition('/')[0]}": value[:5] for name, row in unfinished.items()
                      for key, value in row.items() if key.endswith("/train/loss") and value}  # fmt: skip
            bar.set_postfix(losses)
            for log, process in processes.items():
                if process.exitcode not in (None, 0):
                    last = (log.read_text(encoding="utf-8").strip().splitlines() or ["nothing"])[-1]
                    last = re.sub(r"^renaissance[\w.]*\.", "", last)  # the class alone
                    raise UserError(f"the demo's {log.stem} stopped: {last} (whole log: {log})")
            if not alive:
                return
            time.sleep(1)


def _last_row(runs: Path, began: float) -> dict[str, str] | None:
    """The last training row of the run that started after `began`."""
    files = [file for file in runs.glob("version_*/metrics.csv") if file.stat().st_mtime >= began]
    rows = read_rows(max(files, key=lambda file: file.stat().st_mtime))[1] if files else []
    return next((row for row in reversed(rows) if row.get("learning_rate")), None)
