"""The installation files agree with each other, the scripts parse, and the wall around the tests stands."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

OFFLINE = ROOT / "tests" / "offline"

SCRIPTS = sorted([*ROOT.glob("scripts/**/*.sh"), ROOT / ".ci" / "run"])


def setup_query(*options: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "setup.py", *options], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_setup_reads_name_and_version():
    from renaissance import __version__

    assert setup_query("--name", "--version") == ["renaissance", __version__]


def test_every_package_with_code_is_installed():
    import setuptools

    found = set(setuptools.find_packages(str(ROOT), include=["renaissance", "renaissance.*"]))
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.glob("renaissance/**/*.py")}
    assert folders == found


def test_requirements_are_bounded_from_below_and_installed():
    from importlib.metadata import version

    from packaging.requirements import Requirement

    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line.partition("#")[0]) for line in lines if line.partition("#")[0].strip()]
    assert {"torch", "torchvision", "transformers", "pytorch-lightning", "sacred"} <= {r.name for r in requirements}
    for requirement in requirements:
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators == ({"<"} if requirement.name == "setuptools" else {">="}), requirement
        assert requirement.specifier.contains(version(requirement.name)), requirement


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_shell_scripts_parse_and_stop_on_errors(script: Path):
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert re.search(r"^set -euo pipefail$", script.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the scripts read, beside an environment `active` whose interpreter notes pip and pytest calls."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    for name in ("requirements.txt", "setup.py"):
        shutil.copy(ROOT / name, root / name)
    (root / "run.py").write_text("import sys; print('ran', *sys.argv[1:])", encoding="utf-8")
    python = tmp_path / "active" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f"""#!/usr/bin/env bash
[[ $1 == -m ]] && {{ echo "$*" >>"{tmp_path}/calls"; exit 0; }}
exec "{sys.executable}" "$@"
""",
        encoding="utf-8",
    )
    python.chmod(0o755)
    return root


def run_script(checkout: Path, *command: str) -> tuple[str, list[str]]:
    """Runs a script with `active` as the active environment; returns its output and the noted calls."""
    active = checkout.parent / "active"
    calls = checkout.parent / "calls"
    calls.unlink(missing_ok=True)
    done = subprocess.run(
        ["bash", *command], env=os.environ | {"VIRTUAL_ENV": str(active)}, capture_output=True, text=True, check=True
    )
    return done.stdout, calls.read_text(encoding="utf-8").splitlines() if calls.exists() else []


def test_demo_installs_once_and_again_after_a_change(checkout: Path):
    demo = str(checkout / "scripts" / "demo.sh")
    output, calls = run_script(checkout, demo, "with", "seed=1")
    assert output.endswith("ran demo with seed=1\n")
    assert [call.rpartition(" ")[2] for call in calls] == ["."]
    assert run_script(checkout, demo)[1] == []
    with (checkout / "requirements.txt").open("a", encoding="utf-8") as file:
        file.write("another>=1\n")
    assert len(run_script(checkout, demo)[1]) == 1


def test_tests_need_more_than_the_demo_does(checkout: Path):
    demo, test = (str(checkout / "scripts" / name) for name in ("demo.sh", "test.sh"))
    run_script(checkout, demo)
    _, calls = run_script(checkout, test, "-k", "name")
    assert [call.split()[-1] for call in calls] == [".[test]", "name"]
    assert run_script(checkout, test)[1] == ["-m pytest -n auto --dist worksteal"]
    assert run_script(checkout, demo)[1] == []


def test_an_old_python_is_refused_with_a_sentence(checkout: Path):
    (checkout.parent / "active" / "bin" / "python").write_text("#!/usr/bin/env bash\nexit 1\n", encoding="utf-8")
    with pytest.raises(subprocess.CalledProcessError) as refusal:
        run_script(checkout, str(checkout / "scripts" / "demo.sh"))
    assert refusal.value.returncode == 1
    assert "Python >= 3.11" in refusal.value.stderr and refusal.value.stderr.count("\n") == 1


@pytest.fixture
def noted(monkeypatch, tmp_path) -> Path:
    """A network log of the test's own, so that its attempts do not fail it."""
    log = tmp_path / "network.log"
    monkeypatch.setenv("RENAISSANCE_NETWORK_LOG", str(log))
    return log


def test_the_wall_stops_and_notes_this_process(noted):
    with pytest.raises(Exception, match="without a network.*'192.0.2.1'"):  # an address reserved for documentation
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=1).close()
    assert noted.read_text(encoding="utf-8") == "192.0.2.1\n"


def test_the_wall_stops_and_notes_a_child_that_swallows_the_error(noted):
    code = "import urllib.request\ntry: urllib.request.urlopen('http://example.invalid')\nexcept BaseException: pass"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(OFFLINE)}, check=True)
    assert noted.read_text(encoding="utf-8") == "example.invalid\n"
