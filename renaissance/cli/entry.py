"""Entry point of the program, called by run.py: signals, screen, exit status."""

from __future__ import annotations

import traceback
import warnings
from typing import NoReturn

from renaissance.core.console import install, say
from renaissance.core.errors import Stopped
from renaissance.core.launch import exit_process
from renaissance.core.signals import StopSignals

# Lightning 2.6 calls a pytree name that torch renamed.
warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)


def run_program() -> NoReturn:
    """Runs the command line and exits with the status that `cli.main` returns.

    A defect prints its traceback and gives 1, however it was raised: what libraries in Rust raise is no Exception.
    """
    install()
    try:
        with StopSignals():
            from .main import main  # the handlers are there before it loads Sacred

            status = main()
    except Stopped as stop:
        say(f"{stop}.", error=True)
        status = stop.status
    except SystemExit as end:  # of a library: the command is not done, whatever it says
        place = traceback.extract_tb(end.__traceback__)[-1]
        say(f"error: a library ended the program ({place.filename}:{place.lineno}: {place.line}).", error=True)
        status = end.code if isinstance(end.code, int) and end.code else 1
    except BaseException:
        say(traceback.format_exc(), error=True)
        status = 1
    exit_process(status)
