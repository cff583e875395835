"""What of a tokenizer's files is handed to transformers: named settings of known types, and vocabularies within bounds."""

from __future__ import annotations

import base64
import json
import re
import struct
import warnings
from collections.abc import Collection, Iterator
from re import _parser
from typing import Any

import transformers

from renaissance.core.errors import UserError, printable
from renaissance.core.untrusted import expect, parse_json

from .families import DUAL, FAMILIES

FAST, SETTINGS, SPECIAL, CONFIG = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"
# Vocabularies that transformers makes a tokenizer of where there is no tokenizer.json.
VOCABULARIES = (
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "spm.model", "sentencepiece.bpe.model"),
    *("sentencepiece.model", "tokenizer.model", "source.spm", "target.spm", "bpe.codes", "dict.txt", "vocab-src.json"),
    *("vocab-tgt.json", "prophetnet.tokenizer"),
)  # fmt: skip
_ROLES = frozenset(transformers.PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES)
_FLAGS = frozenset(
    {
        *("do_lower_case", "do_basic_tokenize", "strip_accents", "tokenize_chinese_chars", "clean_up_tokenization_spaces"),
        *("add_prefix_space", "trim_offsets", "add_bos_token", "add_eos_token", "legacy", "split_special_tokens"),
        *("keep_accents", "remove_space", "split_by_punct", "spaces_between_special_tokens", "do_lowercase", "normalization"),
        *("clean_text", "legacy_behaviour", "predict_timestamps"),
    }
)  # fmt: skip
_TEXTS = frozenset(
    {"src_lang", "tgt_lang", "source_lang", "target_lang", "language", "vocab_type", "errors", "wordpieces_prefix"}
)
_COUNTS = frozenset({"extra_ids", "unk_id", "offset"})
_INPUTS = frozenset({"input_ids", "token_type_ids", "attention_mask"})
_CLASS = re.compile(r"[A-Z]\w*Tokenizer(Fast)?|TokenizersBackend")
_MOST_GROWTH = 1000  # times a text may be longer behind a normalizer
_MOST_STEPS = 1000
_MOST_EXTRA = 10_000


def clean(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    """The files that a tokenizer is made of, without what names files, code or places.

    Args:
        files: by name. name: whose they are, for the sentence.

    Raises:
        UserError: a file is damaged, of a wrong type, or would make texts grow without bound.
    """
    kept = {file: content for file, content in files.items() if file in VOCABULARIES}
    if FAST in files:
        _check_fast(parse_json(files[FAST], dict[str, Any], f"{FAST} of {name}"), f"{FAST} of {name}")
        kept[FAST] = files[FAST]
    if SETTINGS in files:
        what = f"{SETTINGS} of {name}"
        kept[SETTINGS] = _dumped(_settings(parse_json(files[SETTINGS], dict[str, Any], what), what))
    if SPECIAL in files:
        what = f"{SPECIAL} of {name}"
        values = parse_json(files[SPECIAL], dict[str, Any], what)
        kept[SPECIAL] = _dumped({key: value for key, value in values.items() if _is_role(key, value, what)})
    if "added_tokens.json" in files:
        what = f"added_tokens.json of {name}"
        values = parse_json(files["added_tokens.json"], dict[str, int], what)
        _check_numbers(values.values(), what)
        kept["added_tokens.json"] = _dumped(values)
    if CONFIG in files:
        kind = parse_json(files[CONFIG], dict[str, Any], f"{CONFIG} of {name}").get("model_type")
        kept[CONFIG] = _dumped({"model_type": kind} if kind in FAMILIES or kind in DUAL else {})
    return kept


def _dumped(values: dict[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _settings(values: dict[str, Any], what: str) -> dict[str, Any]:
    """The fields of a tokenizer_config.json that say how texts are cut; `auto_map` only where a tokenizer is nothing but code."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if value is None:
            continue
        if key in _FLAGS:  # among them add_bos_token, which names no token
            kept[key] = expect(value, bool, f"{key} in {what}")
        elif _is_role(key, value, what):
            kept[key] = value
        elif key in _TEXTS:
            kept[key] = expect(value, str, f"{key} in {what}")
        elif key == "model_max_length":
            kept[key] = expect(value, float, f"{key} in {what}")
        elif key in _COUNTS:
            kept[key] = expect(value, int, f"{key} in {what}")
            _check_numbers([value], what, most=_MOST_EXTRA)
        elif (
            key == "tokenizer_class"
            and _CLASS.fullmatch(expect(value, str, f"{key} in {what}"))
            and value != "AutoTokenizer"
        ):
            kept[key] = value
        elif key == "model_input_names":
            kept[key] = [each for each in expect(value, list[str], f"{key} in {what}") if each in _INPUTS]
        elif key == "added_tokens_decoder":
            for number, token in expect(value, dict[str, dict[str, Any]], f"{key} in {what}").items():
                if not number.isdecimal():
                    raise UserError(f"{key} in {what} has {printable(number)!r} for a number.")
                _check_numbers([int(number[:20])], what)
                _token(token, what)
            kept[key] = value
    if "auto_map" in values and not hasattr(transformers, str(kept.get("tokenizer_class", ""))):
        kept["auto_map"] = {}
    return kept


def _is_role(key: str, value: Any, what: str) -> bool:
    """Whether a field names special tokens."""
    if key in ("additional_special_tokens", "extra_special_tokens"):
        tokens = value if isinstance(value, list) else list(expect(value, dict[str, Any], f"{key} in {what}").values())
        if len(tokens) > _MOST_EXTRA:
            raise UserError(f"{key} in {what} has {len(tokens):,} tokens; at most {_MOST_EXTRA:,} are read.")
    elif key in _ROLES or key.endswith("_token") or key == "mask_token_sent":
        tokens = [value]
    else:
        return False
    for token in tokens:
        _token(token, what)
    return True


def _token(token: Any, what: str) -> None:
    expect(token, str | dict[str, str | bool | int] | None, f"a special token in {what}")
    if isinstance(token, dict):
        expect(token.get("content"), str, f"a special token in {what}")


def _check_fast(values: dict[str, Any], what: str) -> None:
    model = expect(values.get("model"), dict[str, Any], f"model in {what}")
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        expect(vocabulary, dict[str, int], f"the vocabulary in {what}")
        _check_numbers(vocabulary.values(), what)
    added = expect(values.get("added_tokens") or [], list[dict[str, Any]], f"added_tokens in {what}")
    numbers = [expect(each.get("id"), int, f"an id of added_tokens in {what}") for each in added]
    _check_numbers(numbers, what)
    if isinstance(vocabulary, (dict, list)):
        numbers += vocabulary.values() if isinstance(vocabulary, dict) else ()
        refuse_sparse(max(numbers, default=0), len(vocabulary) + len(added), what)
    for part in ("normalizer", "decoder", "pre_tokenizer"):
        refuse_growth(values.get(part), what)
    padding = values.get("padding")
    if isinstance(padding, dict):
        strategy = padding.get("strategy")
        sizes = [*(strategy.values() if isinstance(strategy, dict) else ()), padding.get("pad_to_multiple_of")]
        _check_numbers([each for each in sizes if isinstance(each, int)], what, most=_MOST_EXTRA)


def _check_numbers(numbers: Collection[int], what: str, most: int = 2**31 - 1) -> None:
    if numbers and not 0 <= min(numbers) <= max(numbers) <= most:
        raise UserError(f"{what} has a number below 0 or above {most:,}, which no piece has.")


def refuse_sparse(highest: int, pieces: int, what: str) -> None:
    """Refuses a vocabulary whose numbers reach far beyond its pieces."""
    if highest > 2 * pieces + 1000:
        raise UserError(
            f"{what} numbers {pieces:,} pieces up to {highest:,}: the word embeddings would have a row for each number; give "
            "tokenizer=."
        )


def refuse_growth(part: Any, what: str) -> None:
    """Refuses a normalizer or decoder whose steps can make a text longer without bound.

    Args:
        part: as tokenizer.json has it.
    """
    growth, steps = 1.0, 0
    for step in _steps(part):
        growth, steps = growth * _growth(step, what), steps + 1
        if growth > _MOST_GROWTH or steps > _MOST_STEPS:
            raise UserError(
                f"{what} has steps of replacement that can make a text more than {_MOST_GROWTH:,} times longer; give tokenizer=."
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
    """How many times longer a step can make a text, at most."""
    kind = step.get("type")
    if kind == "ByteLevel":
        return 2.0
    if kind == "Precompiled":
        return max(
            1.0, _longest(expect(step.get("precompiled_charsmap"), str, f"precompiled_charsmap in {what}"), what) / 40
        )
    if kind in ("Prepend", "Replace"):
        word = expect(step.get("prepend" if kind == "Prepend" else "content"), str, f"a step in {what}")
    if kind == "Prepend":
        return 1.0 + len(word) / 100
    if kind != "Replace":
        return 1.0
    pattern = expect(step.get("pattern"), dict[str, str], f"pattern in {what}")
    least = len(pattern["String"]) if "String" in pattern else _least(pattern.get("Regex", ""))
    return 1.0 + len(word) if not least else max(1.0, len(word) / least)


def _least(pattern: str) -> int:
    """The fewest characters that a regular expression matches; 0 where Python cannot tell."""
    if "}?" in pattern or len(pattern) > 1000:  # an option to Oniguruma, a lazy repeat to Python
        return 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _parser.parse(pattern).getwidth()[0]
    except (re.error, RecursionError, OverflowError):
        return 0


def _longest(charsmap: str, what: str) -> int:
    """Bytes of the longest text that a map of sentencepiece's normalizer puts in the place of another."""
    try:
        blob = base64.b64decode(charsmap)
        (size,) = struct.unpack_from("<I", blob)
    except (ValueError, struct.error) as error:
        raise UserError(f"precompiled_charsmap in {what} is damaged.") from error
    return max((len(text) for text in blob[4 + size :].split(b"\0")), default=0)
