"""A wall around the tests: Python code that looks up or connects to anything but this machine fails, and is noted.

Python imports a module of this name at start-up, so this folder on PYTHONPATH puts the wall around a whole process tree
(`run_cli`, data-loader workers); conftest.py runs it for the tests' own process. The error is no OSError, because a
library that answers a dead network by its cache would swallow one; and each attempt is also written to the file that
RENAISSANCE_NETWORK_LOG names, because a bare `except` swallows everything.
"""

import builtins
import os
import socket
import tomllib
import warnings
from pathlib import Path

LOG_VARIABLE = "RENAISSANCE_NETWORK_LOG"
LOOPBACK_NAMES = frozenset({None, "", b"", "localhost", b"localhost", "0.0.0.0", "::", "::1", socket.gethostname()})


class NetworkUsedError(Exception):
    """A test, or what it started, tried to reach another machine."""


def _check(host: object) -> None:
    name = host.decode() if isinstance(host, bytes) else host
    if name in LOOPBACK_NAMES or str(name).startswith("127."):
        return
    if log := os.environ.get(LOG_VARIABLE):
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{name}\n")
    raise NetworkUsedError(f"tests run without a network, but something tried to reach {name!r}")


def _guard_connect(method):
    def connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _check(address[0])
        return method(self, address)

    return connect


def _guard_lookup(function):
    def getaddrinfo(host, *args, **kwargs):
        _check(host)
        return function(host, *args, **kwargs)

    return getaddrinfo


socket.socket.connect = _guard_connect(socket.socket.connect)
socket.socket.connect_ex = _guard_connect(socket.socket.connect_ex)
socket.getaddrinfo = _guard_lookup(socket.getaddrinfo)

# Deprecations are errors in the programs that the tests start, but for pytest's list of what is not ours; what a
# program tells its user by a UserWarning is left for the test to read.
for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
    warnings.filterwarnings("error", category=category)
_PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
for line in _PYPROJECT["tool"]["pytest"]["ini_options"]["filterwarnings"]:
    action, message, category, module, *_ = [*line.split(":"), "", "", ""]
    if message:
        warnings.filterwarnings(action, message, getattr(builtins, category), module.replace(".", r"\."))
