"""Tokenizers: read from a model or a checkpoint, with mask and padding tokens.

The files of a model or a checkpoint are read as {file name: bytes} and cleaned by `tokenizer_data.py`; a tokenizer is built
of the cleaned files alone.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedTokenizerFast

from renaissance.core.errors import UserError, first_line, printable, require
from renaissance.core.untrusted import read_bytes

from .hub import find_file, is_family, quiet
from .tokenizer_data import ADDED, CONFIG, FAST, GIVE, SETTINGS, SPECIAL, VOCABULARIES, clean, refuse_growth

MASK, PAD = "[MASK]", "[PAD]"
_PROBE = "Two dogs, 3 cats: a photo of the café."


class NoTokenizerError(UserError):
    """A model brings no tokenizer, or one of code of its own."""


def load_tokenizer(name: str, *, allow_download: bool = True) -> tuple[PreTrainedTokenizerFast, list[str]]:
    """Loads a model's tokenizer, padding and cutting on the right.

    Returns:
        The tokenizer, and a line for each special token that was added.

    Raises:
        UserError: the model brings no fast tokenizer, or cannot be reached.
    """
    if is_family(name):
        raise NoTokenizerError(
            f"{name} is the name of a family and brings no tokenizer: give tokenizer=<Hub id or folder>."
        )
    kept = clean(_files(name, allow_download), name)
    settings = json.loads(kept.get(SETTINGS, b"{}"))
    if "auto_map" in settings:
        raise NoTokenizerError(f"{name} brings a tokenizer of code of its own, which is never run: {GIVE}.")
    _refuse_slow(getattr(transformers, settings.get("tokenizer_class", ""), None), name)
    if not kept.keys() & {FAST, *VOCABULARIES}:
        raise NoTokenizerError(f"{name} brings no tokenizer (no {FAST} or other vocabulary): {GIVE}.")
    pieces = next((file for file in kept if file.endswith((".model", ".spm"))), None)
    require(
        FAST in kept or pieces is None or importlib.util.find_spec("sentencepiece"),
        f"{name} brings its tokenizer as {pieces}, which takes two packages to read: pip install sentencepiece protobuf.",
    )
    tokenizer = _build_tokenizer(kept, f"The tokenizer of {name}")
    _refuse_slow(type(tokenizer), name)
    for role, token in (("mask_token", MASK), ("pad_token", PAD)):
        if getattr(tokenizer, role) is None:
            tokenizer.add_special_tokens({role: token})
    report = []
    for role in transformers.PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES:
        token = getattr(tokenizer, role, None)
        if isinstance(token, str) and not any(_names_token(token, content) for content in kept.values()):
            number = tokenizer.convert_tokens_to_ids(token)
            report.append(f"tokenizer of {name} had no {role}: {token} was added, piece {number}")
    _check_pieces(tokenizer, f"The tokenizer of {name}")
    return tokenizer, report


def vocabulary_rows(tokenizer: PreTrainedTokenizerFast) -> int:
    """Number of rows of word embeddings that a tokenizer needs: its highest token id + 1."""
    return max(len(tokenizer), max(tokenizer.get_vocab().values(), default=0) + 1)


def tokenizer_files(tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """The tokenizer's files, {file name: text}, as a checkpoint holds them."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(folder).iterdir())}


def tokenizer_from_files(files: dict[str, str]) -> PreTrainedTokenizerFast:
    """The tokenizer that `tokenizer_files` wrote; nothing is downloaded.

    Raises:
        UserError: the files are not those of a tokenizer, or are code.
    """
    what = "the checkpoint's tokenizer"
    for name in files:
        is_data = name.endswith((".json", ".txt", ".jinja", ".model"))
        require(is_data, f"{what} brings {printable(Path(name).name)!r}, which is no file of a tokenizer.")
    kept = clean({Path(name).name: text.encode("utf-8", "surrogatepass") for name, text in files.items()}, what)
    tokenizer = _build_tokenizer(kept, what)
    _check_pieces(tokenizer, what)
    return tokenizer


def _files(name: str, allow_download: bool) -> dict[str, bytes]:
    """The files of a model that a tokenizer may be made of."""

    def read(wanted: Iterable[str]) -> dict[str, bytes]:
        paths = {file: find_file(name, file, allow_download=allow_download) for file in wanted}
        return {file: read_bytes(path, f"{file} of {name}") for file, path in paths.items() if path is not None}

    files = read((FAST, SETTINGS, SPECIAL, ADDED, CONFIG))
    return files if FAST in files else files | read(VOCABULARIES)


def _build_tokenizer(files: dict[str, bytes], what: str) -> PreTrainedTokenizerFast:
    """A tokenizer of these files alone."""
    with _refusing(f"{what} cannot be read"), tempfile.TemporaryDirectory() as folder, quiet():
        for file, content in files.items():
            (Path(folder) / file).write_bytes(content)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer.padding_side = tokenizer.truncation_side = "right"
    return tokenizer


@contextmanager
def _refusing(sentence: str) -> Iterator[None]:
    """Turns any error of tokenizers into a UserError; its panics are no `Exception`."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{sentence} ({first_line(error)}); {GIVE}.") from error


def _refuse_slow(kind: Any, name: str) -> None:
    if isinstance(kind, type) and not issubclass(kind, transformers.PreTrainedTokenizerFast):
        raise UserError(
            f"tokenizer={name} is a slow one ({kind.__name__}), which cannot say which pieces make a word: "
            "give tokenizer=google-bert/bert-base-uncased or another model with a tokenizer.json."
        )


def _check_pieces(tokenizer: PreTrainedTokenizerFast, what: str) -> None:
    """Refuses a tokenizer with sparse token ids, with special tokens alone, or that fails on a short text."""
    for part in (tokenizer.backend_tokenizer.normalizer, tokenizer.backend_tokenizer.decoder):
        if part is not None:
            refuse_growth(json.loads(part.__getstate__()), what)
    vocabulary, rows = tokenizer.get_vocab(), vocabulary_rows(tokenizer)
    useful = set(vocabulary) - set(tokenizer.all_special_tokens)
    require(useful, f"{what} has no pieces but special ones: every text would be unknown; {GIVE}.")
    pieces = len(vocabulary)
    require(
        rows <= 2 * pieces + 1001,
        f"{what} numbers {pieces:,} pieces up to {rows - 1:,}: the word embeddings would have a row for each; {GIVE}.",
    )
    with _refusing(f"{what} cannot cut a short sentence"):  # a vocabulary without the piece for what is unknown, say
        numbers = tokenizer(_PROBE)["input_ids"]
    require(
        len(numbers) <= 1000 and max(numbers, default=0) < rows,
        f"{what} makes {len(numbers):,} pieces of a short sentence, or numbers that are no pieces; {GIVE}.",
    )


def _names_token(token: str, content: bytes) -> bool:
    """Whether a file holds a token, as it is or as JSON writes it."""
    spellings = {token, json.dumps(token)[1:-1], json.dumps(token, ensure_ascii=False)[1:-1]}
    return any(spelling.encode() in content for spelling in spellings)
