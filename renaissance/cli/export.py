"""`python run.py export with load_path=best.ckpt output=my_model`: a checkpoint as a folder that other programs read."""

from pathlib import Path

from renaissance.core.checks import choice, flag, path, plugin_names, require_checkpoint, require_empty
from renaissance.core.console import say
from renaissance.core.errors import require
from renaissance.core.launch import lasting_imports

FORMATS = ("transformers", "dual_encoder", "vilt", "sentence_transformers", "safetensors")


# fmt: off
class Export:
    """What goes out, and where"""

    load_path: path("the path of a checkpoint") = None  # checkpoint of the model, or a folder that was exported before
    plugins: plugin_names = None  # modules and files that the checkpoint was trained with, such as ["my_lab.gqa", "path/to/file.py"]
    output: path("the path of a new folder") = None  # folder that is written
    trust_remote_code: flag = False  # True: runs the code that an encoder of the checkpoint brought
    format: choice(*FORMATS) = "transformers"  # transformers, dual_encoder, vilt, sentence_transformers or safetensors; CONFIGURING_MODELS.md says what each can hold
# fmt: on


def main(load_path: str | None, output: str | None, trust_remote_code: bool, format: str) -> None:
    """Writes the folder.

    Raises:
        UserError: a setting is missing, the folder is there, or the format cannot hold the model.
    """
    require(load_path is not None, "load_path=None: give the path of a checkpoint with load_path=.")
    require(output is not None, "output=None: give the name of the new folder with output=.")
    require_checkpoint("load_path", load_path)
    folder = Path(output).resolve()  # a link stays one
    require_empty(folder)
    with lasting_imports():
        from renaissance.exchange.exporter import export  # here, because it imports torch

    say("\n".join([*export(load_path, folder, format, trust_remote_code), f"written: {output}"]))
