"""Runs a study in a process of its own, with a program that does in a moment what a run does in hours.

    python driver.py <study file> <folder> <workers>     as `action=run`
    python driver.py with <words>                        as `python run.py with <words>`

What a run does is said by files of the folder that BEHAVIOUR names: <exp_name>.fails, <exp_name>.waits, accuracy.txt.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from renaissance.core.atomic import FileLock
from renaissance.runs.identity import folders_of, identity_record, runs_folder
from renaissance.settings.declared import SETTINGS
from renaissance.settings.words import configured
from renaissance.studies import execute
from renaissance.studies.plan import plan
from renaissance.studies.spec import read_study
from renaissance.studies.state import StudyFolder


def study_folder(study: Path, folder: Path) -> StudyFolder:
    content = read_study(str(study))
    runs = plan(content, str(folder / "runs"), {})
    return StudyFolder(folder, content, runs, lambda words: configured(SETTINGS, words))


def run(words: list[str]) -> int:
    values, _ = configured(SETTINGS, words)
    behaviour, name = Path(os.environ["BEHAVIOUR"]), values["exp_name"]
    load = values["load_path"]
    assert load is None or Path(load).is_file(), load
    found = folders_of(values)
    folder = found[-1] if found else runs_folder(values) / f"version_{len([*runs_folder(values).glob('version_*')])}"
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    with open(behaviour / "started.txt", "a") as log:
        log.write(f"{name}\n")
    stopped = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stopped.append(75))
    signal.signal(signal.SIGINT, lambda *_: stopped.append(130))
    record = {"settings": values, "steps": values["max_steps"], "data": {}, "versions": {}} | identity_record(
        values, None
    )
    (folder / "settings.json").write_text(json.dumps(record))
    (folder / "metrics.csv").write_text("step,mlm/train/loss\n3,1.0\n")
    lock = FileLock(folder)  # from here on it is seen to run
    while (behaviour / f"{name}.waits").exists() and not (stopped and not (behaviour / "deaf").exists()):
        time.sleep(0.05)
    lock.release()
    if stopped:
        return stopped[0]
    if (behaviour / f"{name}.fails").exists():
        print("error: the loss is a red herring.")
        return 1
    (folder / "checkpoints" / "best.ckpt").write_text("")
    given = behaviour / "accuracy.txt"
    accuracy = (
        float(given.read_text())
        if given.exists()
        else values["seed"] / 10 + (0.5 if values["freeze_text_encoder"] else 0.25)
    )
    (folder / "results.json").write_text(json.dumps({"val": {"mlm": {"accuracy": accuracy}}}))
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "with":
        sys.exit(run(sys.argv[2:]))
    execute._PROGRAM = Path(__file__)
    states = execute.run_study(study_folder(Path(sys.argv[1]), Path(sys.argv[2])), int(sys.argv[3]))
    print(json.dumps({name: state.kind for name, state in states.items()}))
