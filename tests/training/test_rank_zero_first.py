"""The first process goes first: it alone downloads and refuses, the others wait, say so, and go on with what it found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from torch.distributed import TCPStore

import small_run
from conftest import OFFLINE, ROOT
from renaissance.core.errors import Stopped, UserError
from renaissance.training import rank_zero_first
from small_run import NO_DROPOUT, SMALL

WORDS = ("task_mlm_itm", *SMALL, "batch_size=8", "max_steps=2", "val_check_interval=2", "final_test=False",
         "accelerator=cpu")  # fmt: skip


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Makes this process the one of a machine, of two that plain python starts."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(small_run.free_port()))
    yield lambda rank: monkeypatch.setenv("NODE_RANK", str(rank))
    rank_zero_first._KEPT.clear()


def first(action: Callable[[dict], None]) -> threading.Thread:
    """A first process, as a thread, that acts before it is ready."""
    store = TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), is_master=True, wait_for_workers=False)
    rank_zero_first._KEPT.append(store)  # as the first process does
    found = {}

    def run() -> None:
        from torch.distributed import PrefixStore

        try:
            for _ in rank_zero_first._first(PrefixStore("renaissance/0", store), found, 1):
                action(found)
        except UserError:
            pass

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_one_process_has_nobody_to_meet():
    with rank_zero_first.rank_zero_first(1) as shared:
        assert shared == {}
    assert not rank_zero_first._KEPT


def test_others_wait_say_so_and_hear_what_the_first_found(by_hand, monkeypatch, capsys):
    by_hand(1)
    monkeypatch.setattr(rank_zero_first, "_REMIND", 0.2)
    monkeypatch.setattr(rank_zero_first, "_POLL", 0.3)
    thread = first(lambda found: (time.sleep(1), found.update(resume_from="a/last.ckpt")))
    with rank_zero_first.rank_zero_first(2) as shared:
        assert shared == {"resume_from": "a/last.ckpt"}
    thread.join()
    assert "waits for the first process, which downloads and checks (0 min)\n" in capsys.readouterr().err


def test_a_first_process_that_is_refused_ends_the_others_without_a_word(by_hand):
    by_hand(1)

    def refuse(found: dict) -> None:
        raise UserError("no such file")

    thread = first(refuse)
    with pytest.raises(Stopped) as caught, rank_zero_first.rank_zero_first(2):
        raise AssertionError("went on")
    thread.join(5)
    assert caught.value.status == 0 and not thread.is_alive()  # it has not lingered until its patience ended


def test_a_first_process_that_never_comes_or_is_never_ready_is_one_sentence(by_hand, monkeypatch):
    by_hand(1)
    monkeypatch.setattr(rank_zero_first, "_TO_START", 1)
    with (
        pytest.raises(UserError, match=r"The rendezvous address of this run, 127.0.0.1:\d+, was not there within"),
        rank_zero_first.rank_zero_first(2),
    ):
        raise AssertionError("went on")
    monkeypatch.setattr(rank_zero_first, "_REMIND", 0.2)
    monkeypatch.setattr(rank_zero_first, "PATIENCE", 0.5)
    released = threading.Event()
    thread = first(lambda found: released.wait(20))
    with pytest.raises(UserError, match="was not ready after"), rank_zero_first.rank_zero_first(2):
        raise AssertionError("went on")
    released.set()
    thread.join()


def test_what_only_this_machine_lacks_says_so(by_hand):
    by_hand(1)
    thread = first(lambda found: None)
    with (
        pytest.raises(
            UserError, match=r"no coco\.arrow here\. \(The first process has it: .* a disk that all machines share"
        ),
        rank_zero_first.rank_zero_first(2),
    ):
        raise UserError("no coco.arrow here.")
    thread.join()


class HubServer(BaseHTTPRequestHandler):
    """What a client asks of the Hub for a file of a repository, out of a Hugging Face cache."""

    cache: Path
    asked: Counter[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        owner, name, *rest = self.path.strip("/").split("/")
        repository = self.cache / "hub" / f"models--{owner}--{name}"
        path = repository / "snapshots" / "none"
        if rest[:1] == ["resolve"] and (repository / "refs" / "main").exists():
            commit = (repository / "refs" / "main").read_text()
            path = repository / "snapshots" / commit / "/".join(rest[2:])
        type(self).asked[f"{self.command} {self.path}"] += 1
        if not path.is_file():
            self.send_response(404)
            if (repository / "refs" / "main").exists():
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("X-Repo-Commit", (repository / "refs" / "main").read_text())
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{path.resolve().name}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(hub_cache: Path) -> Iterator[tuple[str, Counter[str]]]:
    """The address of a Hub on this machine, and what was asked of it."""
    handler = type("Handler", (HubServer,), {"cache": hub_cache, "asked": Counter()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler.asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_only_the_first_process_asks_the_hub(server, tmp_path: Path, run_cli):
    address, asked = server
    small_run.write_coco_vg(tmp_path / "data" / "arrow")
    hub = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    words = (*WORDS, *NO_DROPOUT, "negative_group=2")
    done = run_cli("with", *words, "exp_name=alone", env={**hub, "HF_HOME": str(tmp_path / "one")})
    assert done.code == 0, done.stderr
    alone = Counter(asked)
    assert sum(request.startswith("GET") and "safetensors" in request for request in alone) == 2
    asked.clear()
    both = small_run.torchrun(tmp_path, *words, "exp_name=both", **hub, HF_HOME=str(tmp_path / "two"))
    assert both.returncode == 0, both.stderr
    assert asked == alone
    one, two = (tmp_path / "result" / name / "version_0" for name in ("alone", "both"))
    assert small_run.curve(one, "mlm/train/loss") == pytest.approx(small_run.curve(two, "mlm/train/loss"), abs=1e-4)


@pytest.mark.slow
def test_a_refusal_is_said_once(tmp_path: Path, hub_cache: Path):
    for words in ((*WORDS, "data_root=nowhere"), (*WORDS, "learning_rate=-1"), (*WORDS, "no_such_setting=1")):
        done = small_run.torchrun(tmp_path, *words)
        assert done.returncode != 0 and done.stderr.count("error: ") == 1, done.stderr
        assert "renaissance/" not in done.stderr.split("error: ", 1)[1] and not (tmp_path / "result").exists()


@pytest.mark.slow
def test_two_machines_that_plain_python_starts_train_together(tmp_path: Path, hub_cache: Path):
    """The second is there first, and waits; both go on from what the first finds."""
    small_run.write_coco_vg(tmp_path / "data" / "arrow")
    for steps, said in ((2, "starts a new one"), (4, "goes on with")):
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(small_run.free_port()), "PYTHONPATH": str(OFFLINE)}
        machines = []
        for rank in (1, 0):
            words = (*WORDS, "num_nodes=2", f"max_steps={steps}", "resume_from=auto")
            machines.append(
                subprocess.Popen(
                    [sys.executable, str(ROOT / "run.py"), "with", *words],
                    cwd=tmp_path,
                    env=os.environ | place | {"NODE_RANK": str(rank)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
            time.sleep(2)
        second, one = (machine.communicate(timeout=200)[0] for machine in machines)
        assert [machine.returncode for machine in machines] == [0, 0], second + one
        assert said in one and "run folder: " in one and "run folder: " not in second
    (run,) = (tmp_path / "result" / "mlm_itm").iterdir()
    assert len(small_run.curve(run, "mlm/train/loss")) == 4
    assert json.loads((run / "settings.json").read_text())["settings"]["num_nodes"] == 2


@pytest.mark.slow
def test_torchrun_on_two_machines_by_its_script(tmp_path: Path, hub_cache: Path):
    """Two agents of torchrun on one machine, as the README has it; the command is given twice, and goes on."""
    data_root = small_run.write_coco_vg(tmp_path / "data")
    bin_folder = Path(sys.executable).parent
    for steps in (2, 4):
        variables = {
            "NNODES": "2",
            "RDZV_ENDPOINT": f"127.0.0.1:{small_run.free_port()}",
            "VIRTUAL_ENV": str(bin_folder.parent),
        }
        variables |= {"PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": str(OFFLINE)}
        words = (*WORDS, f"data_root={data_root}", f"log_dir={tmp_path / 'result'}", f"max_steps={steps}")
        agents = [
            subprocess.Popen(
                ["bash", str(ROOT / "scripts" / "torchrun.sh"), "1", *words],
                env=os.environ | variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for _ in range(2)
        ]
        said = [agent.communicate(timeout=200)[0] for agent in agents]
        assert [agent.returncode for agent in agents] == [0, 0], "".join(said)
        assert "".join(said).count("run folder: ") == 1
    (run,) = (tmp_path / "result" / "mlm_itm").iterdir()
    assert len(small_run.curve(run, "mlm/train/loss")) == 4
