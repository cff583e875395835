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


class ImportOutput:
    """Where it goes"""

    output: path("the path of a new file") = None  # checkpoint that is written; every command takes it as load_path
# fmt: on


def main(
    source: str | None,
    answers: str | None,
    tokenizer: str | None,
    allow_download: bool,
    num_heads: int | None,
    image_encoder_num_heads: int | None,
    text_encoder_num_heads: int | None,
    output: str | None,
) -> None:
    """Prints what became of each tensor, and writes the checkpoint.

    Raises:
        UserError: a setting is missing, the source is not known or not whole, a tensor is not explained, or the output is there.
    """
    require(source is not None, "source=None: give a checkpoint, a folder or a Hub id with source=.")
    require(output is not None, "output=None: give the name of the new checkpoint with output=.")
    require(not os.path.lexists(output), f"output={output} is there already; give another name, or remove it.")
    names = [] if answers is None else read_bytes(answers, f"answers={answers}").decode("utf-8", "replace").splitlines()
    with lasting_imports():
        from renaissance.exchange.foreign import read_foreign
        from renaissance.exchange.importer import import_model, write  # here, because they import torch

    heads = {"encoder": num_heads, "image_encoder": image_encoder_num_heads, "text_encoder": text_encoder_num_heads}
    heads = {key: count for key, count in heads.items() if count is not None}
    imported = import_model(
        read_foreign(source, allow_download=allow_download), tokenizer, names, heads, allow_download=allow_download
    )
    say("\n".join(imported.lines))
    if imported.stored is None:
        raise UserError(
            f"source={source} holds tensors that nobody can explain (see above), so nothing is written; please report it."
        )
    write(Path(output), imported.stored)
    say(f"written: {output}")
