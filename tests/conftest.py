"""What every test stands on: no network, one thread, a Hugging Face home of its own, the command line as users call it.

Variables are set while this file is imported, before any library reads them; processes that tests start inherit them.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import hub
from browser import browser  # noqa: F401, a fixture

ROOT = Path(__file__).resolve().parent.parent
OFFLINE = ROOT / "tests" / "offline"
SHARED_DATA = ROOT.parent / "shared" / "data"

# Set by the user or the machine, these would lead past the tests' own cache.
for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_ENDPOINT", "HF_TOKEN"):
    os.environ.pop(name, None)
_HF_HOME = Path(tempfile.mkdtemp(prefix="renaissance-hf-home-"))
os.environ["HF_HOME"] = str(_HF_HOME)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models are quickest, and repeatable, on one thread
_NETWORK_LOG = _HF_HOME / "network.log"
os.environ["RENAISSANCE_NETWORK_LOG"] = str(_NETWORK_LOG)

runpy.run_path(str(OFFLINE / "sitecustomize.py"))


def pytest_unconfigure() -> None:
    shutil.rmtree(_HF_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Fails a test that tried to reach another machine, itself or by a child, even where the error was swallowed."""
    _NETWORK_LOG.unlink(missing_ok=True)
    yield
    if _NETWORK_LOG.exists():
        pytest.fail(f"the test tried to reach {_NETWORK_LOG.read_text(encoding='utf-8').split()}")


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """Fails a test that leaves a process of `multiprocessing` behind, such as one of a loader."""
    yield
    left = multiprocessing.active_children()
    for process in left:
        process.kill()
        process.join()
    if left:
        pytest.fail(f"the test left {left}")


class CliResult(NamedTuple):
    """What a command left. Attributes: code, the exit status; stdout; stderr."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def run_cli(tmp_path: Path) -> Callable[..., CliResult]:
    """`run_cli("with", "task_mlm", env={...})` runs `python run.py with task_mlm` in `tmp_path`, offline.

    A command as users type it, in a process of its own: relative paths (`data_root=data/arrow/`) and run folders lie in
    the test's folder. `env` adds variables (None removes one); `timeout` is in seconds. Models come from the test
    session's HF_HOME (see `hub_cache`).
    """

    def run(*args: str, env: dict[str, str | None] | None = None, timeout: float = 300) -> CliResult:
        variables = os.environ | {"PYTHONPATH": str(OFFLINE)} | (env or {})
        done = subprocess.run(
            [sys.executable, str(ROOT / "run.py"), *args],
            cwd=tmp_path,
            env={name: value for name, value in variables.items() if value is not None},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return CliResult(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def hub_cache() -> Path:
    """The HF_HOME of this process and of `run_cli`, filled with small random checkpoints under the documented ids."""
    hub.write_cache(_HF_HOME)
    return _HF_HOME


@pytest.fixture(scope="session")
def full_size_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another HF_HOME: real dimensions, no weights. For `run_cli(..., env={"HF_HOME": str(full_size_home)})`."""
    home = tmp_path_factory.mktemp("full-size-hf-home")
    hub.write_cache(home, full_size=True)
    return home


@pytest.fixture
def full_size_cache(full_size_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`full_size_home`, made the cache of this very process for one test."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(full_size_home / "hub"))
    return full_size_home


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The folder of the real MiniLM: a pretrained BERT with the tokenizer of bert-base-uncased."""
    return hub.minilm_folder()


@pytest.fixture(scope="session")
def nlvr1_dev() -> Path:
    """Real images with sentences that people wrote; the test is skipped where the folder is absent."""
    folder = SHARED_DATA / "nlvr1-dev"
    if not folder.is_dir():
        pytest.skip(f"needs the real data of {folder.relative_to(ROOT.parent)}, which is no part of the project")
    return folder


@pytest.fixture(scope="module")
def own_tables() -> Iterator[None]:
    """Takes what plugins add in the tests of a module out of the tables again."""
    import renaissance.models.backbones.families  # noqa: F401, which fills a table
    from renaissance.core import plugins, registry
    from renaissance.settings.declared import SETTINGS

    tables = [each for each in vars(registry).values() if isinstance(each, registry.Registry)] + [SETTINGS]
    entries, loaded, path = [dict(table.data) for table in tables], dict(plugins.LOADED), list(sys.path)
    yield
    for table, before in zip(tables, entries, strict=True):
        table.data = before
    plugins.LOADED, sys.path[:] = loaded, path
    for name in [name for name in sys.modules if name.startswith(("examples", "toy_lab"))]:
        del sys.modules[name]
