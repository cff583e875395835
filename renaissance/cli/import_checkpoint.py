"""`python run.py import with source=vilt_vqa.ckpt output=vilt.ckpt`: a model of another program as a checkpoint of this one."""

import os
from pathlib import Path

from renaissance.core.checks import flag, integer, path
from renaissance.core.console import say
from renaissance.core.errors import UserError, require
from renaissance.core.launch import lasting_imports
from renaissance.core.untrusted import read_bytes


# fmt: off
class ImportSource:
    """What comes in"""

    source: path("a file, a folder or a Hub id") = None  # checkpoint of ViLT, METER or the first Renaissance; folder or Hub id of a ViLT
    answers: path("the path of a text file") = None  # answers of VQA, one a line, in the order of their numbers; None = those that the source names
    tokenizer: path("a Hub id or folder") = None  # None = the source's own folder, or that of the program
    allow_download: flag = True  # False: only local folders and the Hub's cache


class ImportHeads:
    """Attention heads, which no tensor shows; None = as the source says, or 64 channels each"""

    num_heads: integer(1).or_none = None  # of a one-tower
    image_encoder_num_heads: integer(1).or_none = None  # of the image encoder
    text_encoder_num_heads: integer(1).or_none = None  # of the text encoder
    num_cross_layer_heads: integer(1).or_none = None  # of the fusion


class ImportOutput:
    """Where it goes"""

    output: path("the path of a new file") = None  # checkpoint that is written; every command takes it as load_path
    show_keys: flag = False  # True: prints what became of each tensor, a line each
# fmt: on


def main(
    source: str | None,
    answers: str | None,
    tokenizer: str | None,
    allow_download: bool,
    num_heads: int | None,
    image_encoder_num_heads: int | None,
    text_encoder_num_heads: int | None,
    num_cross_layer_heads: int | None,
    output: str | None,
    show_keys: bool,
) -> None:
    """Prints what became of each tensor, and writes the checkpoint.

    Raises:
        UserError: a setting is missing, the source is not known or not whole, a tensor is not explained, or the output is there.
    """
    require(source is not None, "source=None: give a checkpoint, a folder or a Hub id with source=.")
    require(output is not None, "output=None: give the name of the new checkpoint with output=.")
    require(not os.path.lexists(output), f"output={output} is there already; give another name, or remove it.")
    require(not output.endswith(os.sep), f"output={output} is the name of a folder; give that of a file.")
    names = [] if answers is None else _lines(answers)
    with lasting_imports():
        from renaissance.exchange.foreign import read_foreign
        from renaissance.exchange.importer import import_model, write  # here, because they import torch

    heads = {"encoder": num_heads, "image_encoder": image_encoder_num_heads, "text_encoder": text_encoder_num_heads}
    heads["fusion"] = num_cross_layer_heads
    heads = {key: count for key, count in heads.items() if count is not None}
    imported = import_model(
        read_foreign(source, allow_download=allow_download), tokenizer, names, heads, allow_download=allow_download
    )
    say("\n".join([*(imported.keys if show_keys else ()), *imported.lines]))
    if imported.stored is None:
        raise UserError(
            f"source={source} holds tensors that nobody can explain (see above), so nothing is written; please report it."
        )
    write(Path(output), imported.stored)
    say(f"written: {output}")


def _lines(path: str) -> list[str]:
    """The lines of a text file, without empty ones at its end."""
    try:
        text = read_bytes(path, f"answers={path}").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"answers={path} is no text in UTF-8; save it as one.") from error
    return [line.removesuffix("\r") for line in text.rstrip("\r\n").split("\n")]
