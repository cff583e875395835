"""Cleans a tokenizer's files for transformers: only listed settings of known types, and steps within bounds."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import transformers

from renaissance.core.errors import UserError, require
from renaissance.core.untrusted import expect, parse_json

from .families import DUAL, FAMILIES

FAST, SETTINGS, SPECIAL, CONFIG = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"
ADDED = "added_tokens.json"
# Vocabularies that transformers builds a tokenizer from if there is no tokenizer.json.
VOCABULARIES = (
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "spm.model", "sentencepiece.bpe.model"),
    *("sentencepiece.model", "tokenizer.model", "source.spm", "target.spm", "bpe.codes", "dict.txt", "vocab-src.json"),
    *("vocab-tgt.json", "prophetnet.tokenizer"),
)  # fmt: skip
_FLAGS = (
    *("do_lower_case", "do_basic_tokenize", "strip_accents", "tokenize_chinese_chars", "clean_up_tokenization_spaces"),
    *("add_prefix_space", "trim_offsets", "add_bos_token", "add_eos_token", "legacy", "split_special_tokens"),
    *("keep_accents", "remove_space", "split_by_punct", "spaces_between_special_tokens", "do_lowercase", "normalization"),
    *("clean_text", "legacy_behaviour", "predict_timestamps"),
)  # fmt: skip
_LANGUAGES = ("src_lang", "tgt_lang", "source_lang", "target_lang", "language")
_COUNTS = ("extra_ids", "unk_id", "offset")
# The settings that affect tokenisation, with their types; special tokens are kept, too.
_TYPES: dict[str, Any] = {
    **dict.fromkeys(_FLAGS, bool),
    **dict.fromkeys((*_LANGUAGES, "vocab_type", "errors", "wordpieces_prefix", "tokenizer_class"), str),
    **dict.fromkeys(_COUNTS, int),
    "model_max_length": float,
    "model_input_names": list[str],
    "added_tokens_decoder": dict[str, dict[str, Any]],
}
_ROLES = frozenset(transformers.PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES)
_INPUTS = frozenset({"input_ids", "token_type_ids", "attention_mask"})
_CLASS = re.compile(r"(?!AutoT)[A-Z]\w*Tokenizer(Fast)?|TokenizersBackend")
GIVE = "give tokenizer=<Hub id or folder of a model with the same vocabulary>"  # the end of a refusal
_MOST_GROWTH = 1000  # times a text may be longer behind a normalizer
_MOST_STEPS = 1000
_MOST_EXTRA = 10_000


def clean(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    """The files that a tokenizer is built from, without fields that name files, code or addresses.

    Args:
        files: by name. name: whose they are, for the sentence.

    Raises:
        UserError: a file is damaged, of a wrong type, or would make texts grow without bound.
    """
    kept = {file: content for file, content in files.items() if file in VOCABULARIES}
    cleaners = {SETTINGS: _settings, SPECIAL: _special_tokens, ADDED: _added_tokens, CONFIG: _model_type}
    for file in [each for each in (FAST, *cleaners) if each in files]:
        what = f"{file} of {name}"
        values = parse_json(files[file], dict[str, Any], what)
        if file == FAST:
            for part in ("normalizer", "decoder", "pre_tokenizer"):
                refuse_growth(values.get(part), what)
            kept[FAST] = files[FAST]
        else:
            text = json.dumps(cleaners[file](values, what), ensure_ascii=False)
            kept[file] = text.encode("utf-8", "surrogatepass")
    return kept


def _settings(values: dict[str, Any], what: str) -> dict[str, Any]:
    """The fields of a tokenizer_config.json that affect tokenisation; `auto_map` only if transformers lacks the class."""
    given = {key: value for key, value in values.items() if value is not None}
    kept = {key: expect(value, _TYPES[key], f"{key} in {what}") for key, value in given.items() if key in _TYPES}
    # Flags such as add_bos_token name no token.
    kept |= _special_tokens({key: value for key, value in given.items() if key not in _TYPES}, what)
    counts = [kept[key] for key in _COUNTS if key in kept]
    require(all(0 <= each <= _MOST_EXTRA for each in counts), f"{what}: {', '.join(_COUNTS)} are 0 to {_MOST_EXTRA:,}.")
    for token in kept.get("added_tokens_decoder", {}).values():
        _check_token(token, what)
    if "model_input_names" in kept:
        kept["model_input_names"] = [each for each in kept["model_input_names"] if each in _INPUTS]
    if not _CLASS.fullmatch(kept.get("tokenizer_class", "")):
        kept.pop("tokenizer_class", None)
    if "auto_map" in values and not hasattr(transformers, kept.get("tokenizer_class", "")):
        kept["auto_map"] = {}
    return kept


def _special_tokens(values: dict[str, Any], what: str) -> dict[str, Any]:
    """The fields that name special tokens."""
    kept = {}
    for key, value in values.items():
        if key in ("additional_special_tokens", "extra_special_tokens"):
            listed = expect(value, list | dict, f"{key} in {what}")
            tokens = [*(listed.values() if isinstance(listed, dict) else listed)]
        elif key in _ROLES or key.endswith("_token") or key == "mask_token_sent":
            tokens = [value]
        else:
            continue
        require(
            len(tokens) <= _MOST_EXTRA, f"{key} in {what} has {len(tokens):,} tokens; at most {_MOST_EXTRA:,} are read."
        )
        for token in tokens:
            _check_token(token, what)
        kept[key] = value
    return kept


def _added_tokens(values: dict[str, Any], what: str) -> dict[str, int]:
    return expect(values, dict[str, int], what)


def _model_type(values: dict[str, Any], what: str) -> dict[str, str]:
    kind = expect(values.get("model_type"), str | None, f"model_type in {what}")
    return {"model_type": kind} if kind in FAMILIES or kind in DUAL else {}


def _check_token(token: Any, what: str) -> None:
    expect(token, str | dict[str, str | bool | int] | None, f"a special token in {what}")
    if isinstance(token, dict):
        expect(token.get("content"), str, f"a special token in {what}")


def refuse_growth(part: Any, what: str) -> None:
    """Refuses a normalizer or decoder whose steps can make a text longer without bound.

    Args:
        part: as tokenizer.json has it.
    """
    growth = 1.0
    for number, step in enumerate(_steps(part)):
        growth *= _growth(step, what)
        require(
            growth <= _MOST_GROWTH and number < _MOST_STEPS,
            f"{what} has steps of replacement that can make a text more than {_MOST_GROWTH:,} times longer; {GIVE}.",
        )


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, list):
        for each in part:
            yield from _steps(each)
    elif isinstance(part, dict):
        yield part
        for key in ("normalizers", "decoders", "pretokenizers"):
            yield from _steps(part.get(key))


def _growth(step: dict[str, Any], what: str) -> float:
    """How many times longer a step can make a text, at most; a regular expression counts as matching the empty text."""
    kind = step.get("type")
    if kind == "ByteLevel":
        return 2.0
    if kind == "Precompiled":
        return max(1.0, _longest(step.get("precompiled_charsmap"), what) / 40)
    if kind == "Prepend":
        return 1.0 + len(expect(step.get("prepend"), str, f"a step in {what}")) / 100
    if kind == "Replace":
        word = expect(step.get("content"), str, f"a step in {what}")
        literal = expect(step.get("pattern"), dict[str, str], f"pattern in {what}").get("String")
        return max(1.0, len(word) / len(literal)) if literal else 1.0 + len(word)
    return 1.0


def _longest(charsmap: Any, what: str) -> int:
    """Bytes of the longest replacement in the map of a sentencepiece normalizer."""
    try:
        blob = base64.b64decode(expect(charsmap, str, f"precompiled_charsmap in {what}"))
    except ValueError as error:
        raise UserError(f"precompiled_charsmap in {what} is damaged.") from error
    size = int.from_bytes(blob[:4], "little")
    return max(len(text) for text in blob[4 + size :].split(b"\0"))
