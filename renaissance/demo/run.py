"""The demo: writes a world, prepares it like any download, pretrains both models side by side, and prints what they learned."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from renaissance.core.console import say
from renaissance.core.errors import Stopped, UserError
from renaissance.core.launch import available_cores
from renaissance.data.prepare.coco import make_arrow
from renaissance.runs.report import sound_rows, table

from .probes import KINDS
from .raw import write_coco, write_tokenizer
from .world import render, scene

VAL, TEST = 200, 500  # held-out pictures
RECIPES = {"two_tower": "demo_two_tower", "one_tower": "demo_one_tower"}
_CONTEXT = multiprocessing.get_context("spawn")


def demo(root: str, seed: int, steps: int, pictures: int, tasks: list[str]) -> dict[str, Any]:
    """Runs the demo and writes `<root>/demo.json` and `<root>/results.md`.

    Args:
        root: folder of everything that the demo writes.
        seed: of the world and of both models.
        steps: optimizer steps of each model.
        pictures: of the train split; restval has a tenth of it.
        tasks: downstream tasks that follow, keys of `finetune.TASKS`.

    Returns:
        The content of demo.json.
    """
    folder, began = Path(root), time.monotonic()
    write_world(folder, seed, pictures)
    runs = _pretrain_both(folder, seed, steps)
    figures = {name: content["figures"] for name, content in runs.items()}
    tables = [results_table(figures)]
    if tasks:
        say(tables[0])
        from .finetune import results_table as table_of_tasks

        found = _finetune(folder, seed, steps, tasks, runs)
        tables.append(table_of_tasks(found))
        figures["tasks"] = found
    (folder / "demo.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    took = f"seed {seed}, {(time.monotonic() - began) / 60:.1f} minutes on {available_cores()} cores"
    written = "\n".join(f"```text\n{each}\n```\n" for each in tables)
    (folder / "results.md").write_text(f"# The demo\n\n{took}\n\n{written}", encoding="utf-8")
    say(tables[-1])
    say(f"\n{took}\nfigures: {folder / 'demo.json'}, tables: {folder / 'results.md'}")
    for name, content in runs.items():
        say(f"{name}: {content['run_folder']}")
    best = f"{runs['two_tower']['run_folder']}/checkpoints/best.ckpt"
    say(f"\nnext: python run.py with task_mlm_itm load_path={best} datasets='[\"coco\"]' data_root={folder / 'arrow'} "
          "max_steps=100 batch_size=32 log_dir=" + str(folder / "runs"))  # fmt: skip
    return figures


def write_world(folder: Path, seed: int, pictures: int) -> None:
    """Official raw COCO downloads, the arrow files made of them, the tokenizer, and the shapes of the two encoders."""
    from transformers import BertConfig, ViTConfig

    try:
        folder.mkdir(parents=True, exist_ok=True)
        say(f"writing {pictures:,} pictures with captions as COCO downloads to {folder / 'raw'}")
        write_coco(folder / "raw", seed=seed, train=pictures, restval=pictures // 10, val=VAL, test=TEST)
    except OSError as error:
        raise UserError(
            f"root={folder} cannot be written ({error.strerror}); give another folder with root=."
        ) from error
    make_arrow(folder / "raw", folder / "arrow")
    write_tokenizer(folder / "tokenizer")
    write_tokenizer(folder / "text_encoder")
    BertConfig(vocab_size=_pieces(folder / "tokenizer"), max_position_embeddings=64).save_pretrained(
        folder / "text_encoder"
    )
    ViTConfig(image_size=48, patch_size=16).save_pretrained(folder / "image_encoder")
    statistics = json.dumps(pixel_statistics(seed))
    (folder / "image_encoder" / "preprocessor_config.json").write_text(statistics + "\n", encoding="utf-8")


def pixel_statistics(seed: int, scenes: int = 500) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel over the world's pictures, as an image processor states them."""
    pixels = np.stack([render(scene(seed, index)) for index in range(scenes)]).reshape(-1, 3) / 255
    return {"image_mean": pixels.mean(0).round(4).tolist(), "image_std": pixels.std(0).round(4).tolist()}


def _pieces(folder: Path) -> int:
    return len(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])


def _pretrain_both(folder: Path, seed: int, steps: int) -> dict[str, dict[str, Any]]:
    """Both models at once, each in a process of its own with half of the cores."""
    from .pretrain import pretrain

    threads = available_cores(len(RECIPES))
    work = {name: (pretrain, recipe, str(folder), seed, steps, threads) for name, recipe in RECIPES.items()}
    _side_by_side(folder, work, dict.fromkeys(RECIPES, steps), "pretraining both models")
    return {
        name: json.loads((folder / f"{recipe}.json").read_text(encoding="utf-8")) for name, recipe in RECIPES.items()
    }


def _finetune(
    folder: Path, seed: int, steps: int, names: list[str], runs: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The downstream tasks, a process a core; a process that is through takes what is waiting next."""
    from . import finetune

    say(f"writing the downloads of {', '.join(names)}")
    finetune.write_tasks(folder, seed, names)
    checkpoints = {name: f"{content['run_folder']}/checkpoints/best.ckpt" for name, content in runs.items()}
    blocks = finetune.blocks(names, steps)
    workers = min(len(blocks), available_cores())
    waiting = _CONTEXT.Queue()
    for block in (*blocks, *[None] * workers):
        waiting.put(block)
    work = (finetune.finetune, waiting, str(folder), seed, checkpoints, available_cores(workers))
    followed = {run.name: run.steps for block in blocks for run in block}
    processes = {f"finetuning_{number}": work for number in range(workers)}
    _side_by_side(folder, processes, followed, f"{len(followed)} finetuning runs")
    return finetune.figures(folder, names)


def _side_by_side(folder: Path, work: dict[str, tuple[Any, ...]], followed: dict[str, int], title: str) -> None:
    """Does each piece of work in a process of its own, with one progress bar over all of them.

    Args:
        folder: of the demo; a process writes to `<its name>.log` in it.
        work: function and arguments, by the process's name.
        followed: the runs that the processes do, by name, with their steps.
        title: of the bar.
    """
    processes = {
        name: _CONTEXT.Process(target=_in_log, args=(call, str(folder / f"{name}.log"), *arguments), name=name)
        for name, (call, *arguments) in work.items()
    }
    began = time.time()
    for process in processes.values():
        process.start()
    try:
        _watch(processes, folder / "runs", followed, began, title)
    finally:
        for process in processes.values():
            process.terminate()
            process.join()


def _in_log(work: Any, log: str, *arguments: Any) -> None:
    with open(log, "w", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            work(*arguments)
        except Stopped as stop:
            say(str(stop))
            sys.exit(stop.status)
        except Exception as error:
            if not isinstance(error, UserError):
                traceback.print_exc(file=file)
            say(f"{type(error).__name__}: {error}")
            sys.exit(1)


def _watch(processes: dict[str, Any], runs: Path, followed: dict[str, int], began: float, title: str) -> None:
    """One progress bar over all runs, fed by their metrics.csv.

    Raises:
        UserError: a process failed; its log is named.
    """
    seen = sys.stderr.isatty()  # in a file a line a minute is enough
    pace = {"mininterval": 0.1 if seen else 60, "miniters": 0}
    with tqdm(total=sum(followed.values()), unit="step", desc=title, dynamic_ncols=True, **pace) as bar:
        while True:
            alive = [process for process in processes.values() if process.is_alive()]
            rows = {name: _last_row(runs / name, began) for name in followed}
            bar.update(sum(int(row["step"]) for row in rows.values() if row) - bar.n)
            unfinished = {name: row for name, row in rows.items() if row and int(row["step"]) < followed[name]}
            losses = {f"{name} {key.partition('/')[0]}": value[:5] for name, row in unfinished.items()
                      for key, value in row.items() if key.endswith("/train/loss") and value}  # fmt: skip
            bar.set_postfix(losses, refresh=seen)
            for name, process in processes.items():
                if process.exitcode not in (None, 0):
                    log = runs.parent / f"{name}.log"
                    last = (log.read_text(encoding="utf-8").strip().splitlines() or ["nothing"])[-1]
                    raise UserError(f"the demo's {name} stopped: {last} (whole log: {log})")
            if not alive:
                return
            time.sleep(1)


def _last_row(runs: Path, began: float) -> dict[str, str] | None:
    """The newest training line of the run that started after `began`."""
    files = [file for file in runs.glob("version_*/metrics.csv") if file.stat().st_mtime >= began]
    rows = sound_rows(max(files, key=lambda file: file.stat().st_mtime))[1] if files else []
    return next((row for row in reversed(rows) if row.get("learning_rate")), None)


def results_table(figures: dict[str, Any]) -> str:
    """The demo's one table: both models, image-text matching and masked words by kind."""
    rows = [("held-out scenes", *figures, "chance or text alone")]
    for key, label in (("itm", "ITM accuracy"), ("itm_matched", "  matched"), ("itm_mismatched", "  mismatched")):
        rows.append((label, *(_percent(of[key]) for of in figures.values()), _percent(0.5)))
    text_only = next(iter(figures.values()))["mlm_text_only"]
    for key, label in (("mlm", "MLM, right picture"), ("mlm_wrong_picture", "MLM, wrong picture")):
        rows.append((label, *("" for _ in figures), ""))
        for kind in KINDS:
            values = (_percent(of[key][kind]) for of in figures.values())
            rows.append((f"  {kind}", *values, _percent(text_only[kind])))
        means = (_percent(mean_of_kinds(of[key])) for of in figures.values())
        rows.append(("  mean without relation", *means, _percent(mean_of_kinds(text_only))))
    return table(rows, indent="")


def mean_of_kinds(accuracies: dict[str, float]) -> float:
    """Mean over colour, shape, size and place; relation words are reported apart."""
    kinds = [kind for kind in KINDS if kind != "relation"]
    return sum(accuracies[kind] for kind in kinds) / len(kinds)


def _percent(value: float) -> str:
    return f"{value:.3f}"
