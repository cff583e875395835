"""Tokenizers: read from a model, made fit for masked language modelling, and carried in checkpoints."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import transformers

from renaissance.errors import UserError

from .hub import explained, quiet
from .remote import place

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_DATA = (".json", ".txt", ".jinja", ".model")  # ends of names of a tokenizer's files
MASK, PAD = "[MASK]", "[PAD]"


def load_tokenizer(name: str, *, allow_download: bool = True) -> tuple[PreTrainedTokenizerFast, list[str]]:
    """Loads a model's tokenizer, padding and cutting on the right.

    Returns:
        The tokenizer, and a line for each token that it lacked and was given.

    Raises:
        UserError: the model brings no fast tokenizer, or cannot be reached.
    """
    with (
        quiet(),
        explained(name, allow_download, code="a tokenizer of code of its own, which is never run: give tokenizer="),
    ):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            place(name).name,
            revision=place(name).revision or "main",
            use_fast=True,
            local_files_only=not allow_download,
            trust_remote_code=False,
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"tokenizer={name} is a slow one ({type(tokenizer).__name__}), which cannot say which pieces make a word: "
            "give tokenizer=google-bert/bert-base-uncased or another model with a tokenizer.json."
        )
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    report = []
    for role, token in (("mask_token", MASK), ("pad_token", PAD)):
        if getattr(tokenizer, role) is None:
            tokenizer.add_special_tokens({role: token})
            number = getattr(tokenizer, role + "_id")
            report.append(f"tokenizer of {name} had no {role}: {token} was added, piece {number}")
    return tokenizer, report


def tokenizer_files(tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """The tokenizer's files, {file name: text}, as a checkpoint holds them."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(folder).iterdir())}


def tokenizer_from_files(files: dict[str, str]) -> PreTrainedTokenizerFast:
    """The tokenizer that `tokenizer_files` wrote; asks nobody.

    Raises:
        UserError: the files are not those of a tokenizer, or are code.
    """
    with tempfile.TemporaryDirectory() as folder, quiet(), explained("the checkpoint's tokenizer", False):
        for name, text in files.items():
            if not name.endswith(_DATA):
                raise UserError(
                    f"The checkpoint's tokenizer brings {Path(name).name!r}, which is no file of a tokenizer."
                )
            (Path(folder) / Path(name).name).write_text(text, encoding="utf-8")
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, use_fast=True, local_files_only=True, trust_remote_code=False
        )
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    return tokenizer
