"""`python run.py serve with load_path=...`: a page of this machine where a checkpoint is asked of images and texts."""

import re
import socket
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from renaissance.core.checks import Check, flag, integer, path, plugin_names, require_checkpoint, text
from renaissance.core.console import say
from renaissance.core.errors import UserError, first_line, require
from renaissance.core.launch import lasting_imports

device_name = Check(
    "cpu, cuda, cuda:1 or mps", lambda v: isinstance(v, str) and bool(re.fullmatch(r"cpu|mps|cuda(:\d{1,3})?", v))
)


# fmt: off
class Serve:
    """What is shown, and where"""

    load_path: path("the path of a checkpoint") = None  # checkpoint of the model, or a folder that `export` wrote
    plugins: plugin_names = None  # modules and files that the checkpoint was trained with, such as ["my_lab.gqa", "path/to/file.py"]
    trust_remote_code: flag = False  # True: runs the code that an encoder of the checkpoint brought
    device: device_name = "cpu"  # where the model computes: cpu, cuda, cuda:1 or mps
    top: integer(1) = 5  # how many answers, and how many words for each mask
    host: text("an address of this machine") = "127.0.0.1"  # address that is listened at; 0.0.0.0 = all: whoever reaches this machine may ask the model
    port: integer(1, 65535) = 7860  # port that is listened at
# fmt: on


def main(load_path: str | None, trust_remote_code: bool, device: str, top: int, host: str, port: int) -> None:
    """Shows the page until Ctrl-C.

    Raises:
        UserError: a setting is missing, gradio is not installed, or the port is taken.
        Stopped: by a signal; nothing else ends it.
    """
    require(load_path is not None, "load_path=None: give the path of a checkpoint with load_path=.")
    require_checkpoint("load_path", load_path)
    require(find_spec("gradio"), "serve needs the package gradio: pip install 'gradio>=6.31'.")
    with _listening(host, port) as listening:  # at once: torch takes seconds; who comes meanwhile waits for the page
        with lasting_imports():
            from renaissance.inference.loaded import Loaded
            from renaissance.reports.live_page import LivePage, is_loopback, serve
        page = LivePage(Loaded(load_path, device, trust_remote_code=trust_remote_code), top)
        if not is_loopback(listening.getsockname()[0]):
            say(f"note: host={host}: whoever reaches this machine there may ask the model.")
        shown = f"[{host}]" if ":" in host else host
        say(f"http://{shown}:{port} shows {Path(load_path).name}; Ctrl-C ends it.")
        with TemporaryDirectory(prefix="renaissance_serve_") as folder:
            serve(page, listening, folder)


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens at a port of an address of this machine."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a page that has just ended holds no port
        listening.bind((host, port))
        listening.listen()
    except (OSError, UnicodeError) as error:  # UnicodeError: of a name that is none
        listening.close()
        why = f"host={host} port={port} cannot be listened at ({first_line(error)})"
        raise UserError(f"{why}; give another port=, or host=127.0.0.1.") from error
    return listening
