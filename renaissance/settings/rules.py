"""What each setting may be, one row a key; `combinations.py` has the rules between keys.

`CHECKS` has exactly the keys of config.py (a test holds the two together).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from renaissance.core.errors import UserError, printable

TRANSFORMS = tuple(name + suffix for name in ("imagenet", "vit", "clip", "pixelbert") for suffix in ("", "_randaug"))
# A task is a file in tasks/; its name is the key of its weight in loss_names.
TASK_NAMES = tuple(
    sorted(path.stem for path in (Path(__file__).parents[1] / "tasks").glob("[a-z]*.py") if path.stem != "base")
)
# Sizes that no model and no machine has; what several of them make together is found in `bounds`.
MOST_WIDTH, MOST_LAYERS, MOST_PIECES, MOST_TOKENS, MOST_PIXELS = 1 << 20, 1024, 1 << 24, 1 << 20, 1 << 14
MOST_PAIRS, MOST_PROCESSES = 1 << 24, 1 << 12
PRECISIONS = {"32": "32-true", "32-true": "32-true", "16": "16-mixed", "16-mixed": "16-mixed", "bf16": "bf16-mixed",
              "bf16-mixed": "bf16-mixed", "64": "64-true", "64-true": "64-true"}  # fmt: skip


@dataclass(frozen=True)
class Check:
    """What one setting may be.

    Attributes:
        allowed: the end of the sentence "<key>=<value> is not allowed: give ...".
        test: True for a value that may stand.
        optional: None may stand (somebody else answers, or the thing is off).
        convert: brings an allowed value to its one form (1e3 arrives as a float).
    """

    allowed: str
    test: Callable[[Any], bool]
    optional: bool = False
    convert: Callable[[Any], Any] = lambda value: value

    def problem(self, key: str, value: Any) -> str | None:
        """A sentence, or None where the value may stand."""
        if value is None:
            return None if self.optional else f"{key}=None is not allowed: give {self.allowed}."
        if isinstance(value, str) and (wrong := _no_name(value)):
            return (
                f"{key}={value!r} is not allowed: it holds {wrong}, as no name and no path does; give {self.allowed}."
            )
        return None if self.test(value) else f"{key}={value!r} is not allowed: give {self.allowed}."


def _no_name(text: str) -> str | None:
    """What a text holds that cannot be part of a path, or not be written down; None where there is nothing."""
    if "\0" in text:
        return "a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "bytes that are no UTF-8"
    return None


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def _is_whole(value: Any) -> bool:
    return _is_number(value) and abs(value) < 1 << 63 and value == int(value)


def whole(least: int, optional: bool = False, most: int | None = None) -> Check:
    span = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
    return Check(span, lambda v: _is_whole(v) and least <= v and (most is None or v <= most), optional, int)


def size(least: int, most: int, optional: bool = False) -> Check:
    """A whole number whose most is so far away that the sentence begins with what a user may have meant."""
    rule = whole(least, optional, most)
    return replace(rule, allowed=f"a whole number of at least {least}, at most {most:,}")


def number(least: float, most: float | None = None, *, above: bool = False, optional: bool = False) -> Check:
    low = f"above {least}" if above else f"of at least {least}"
    span = f"a number {low}" + ("" if most is None else f" and at most {most}")
    return Check(
        span, lambda v: _is_number(v) and (v > least if above else v >= least) and (most is None or v <= most), optional
    )


def flag() -> Check:
    return Check("True or False", lambda v: isinstance(v, bool))


def _text(value: Any) -> bool:
    """A text that is not empty; a whole number (exp_name=2024) is one too."""
    return isinstance(value, str) and bool(value.strip()) or isinstance(value, int) and not isinstance(value, bool)


def text(what: str, optional: bool = False) -> Check:
    return Check(what, _text, optional, str)


def choice(*names: str, optional: bool = False) -> Check:
    return Check(" or ".join(names), lambda v: v in names, optional)


def steps_or_share(what: str, least: int, *, closed: bool) -> Check:
    """A whole number is a number of steps; a float below 1 (or 1.0 where `closed`) is a share."""

    def convert(value: Any) -> int | float:
        return float(value) if isinstance(value, float) and value <= 1 and (closed or value < 1) else int(value)

    def test(value: Any) -> bool:
        if not _is_number(value) or value < 0:
            return False
        if isinstance(value, float) and (value < 1 or (closed and value == 1)):
            return value > 0 or not closed
        return _is_whole(value) and value >= least

    return Check(what, test, convert=convert)


_LONGEST = 3650 * 24 * 3600  # seconds; timers of the system hold no time without end
_TIME = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d)(?::([0-5]\d))?", re.ASCII)


def seconds_of(time: str) -> int:
    """The seconds of a time as [days-]hours:minutes[:seconds], which has been checked."""
    days, hours, minutes, seconds = (int(part or 0) for part in _TIME.fullmatch(time).groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _time(value: Any) -> bool:
    return (
        isinstance(value, str)
        and len(value) < 20
        and bool(_TIME.fullmatch(value))
        and 0 < seconds_of(value) <= _LONGEST
    )


def _one_transform(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 1 and value[0] in TRANSFORMS


def _folder_name(value: Any) -> bool:
    """A folder of this name shows up in `ls` and in patterns such as result/*, and can be typed."""
    name = str(value)
    plain = name.isprintable() and name == name.strip() and "/" not in name and not name.startswith(".")
    return _text(value) and plain and len(name) <= 100 and len(name.encode()) <= 255


def _names(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(isinstance(name, str) and name and not _no_name(name) for name in value)
    )


def _weights(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_is_number(w) and w >= 0 and n in TASK_NAMES for n, w in value.items())


_TRANSFORM = Check(f"a list of one of {', '.join(TRANSFORMS)}", _one_transform)
_FAST_DEV_RUN = Check(
    "True, False or a number of steps", lambda v: isinstance(v, bool) or (_is_whole(v) and v >= 0), convert=int
)
_DECAY = Check(
    'a number of at least 0 or "cosine"', lambda v: v == "cosine" or (_is_number(v) and v >= 0)
)  # fmt: skip
_PRECISION = Check(
    "32, 16-mixed, bf16-mixed or 64", lambda v: str(v) in PRECISIONS, convert=lambda v: PRECISIONS[str(v)]
)


def _tower(prefix: str) -> dict[str, Check]:
    return {
        f"{prefix}hidden_size": size(1, MOST_WIDTH, optional=True),
        f"{prefix}num_heads": size(1, MOST_WIDTH, optional=True),
        f"{prefix}num_layers": size(1, MOST_LAYERS, optional=True),
        f"{prefix}mlp_ratio": number(0, 1000, above=True, optional=True),
        f"{prefix}drop_rate": number(0, 0.999, optional=True),
        f"{prefix}embedding_size": size(1, MOST_WIDTH, optional=True),
    }


CHECKS: dict[str, Check] = {
    "exp_name": Check(
        "a name without /, a dot at its start or spaces at its ends, of at most 100 characters and 255 bytes",
        _folder_name,
        convert=str,
    ),
    "seed": whole(0, most=2**63 - 1),
    "log_dir": text("a folder"),
    "load_path": text("a checkpoint file", optional=True),
    "resume_from": text("a checkpoint file", optional=True),
    "test_only": flag(),
    "final_test": flag(),
    "fast_dev_run": _FAST_DEV_RUN,
    "log_every_n_steps": whole(1),
    "max_bad_steps": whole(1),
    "save_every_steps": whole(1, optional=True),
    "save_every_minutes": number(0.01, optional=True),
    "keep_last": whole(1),
    "max_time": Check("hours:minutes, such as 11:30, also [days-]hours:minutes:seconds", _time, optional=True),
    "trust_remote_code": flag(),
    "allow_download": flag(),
    "ref_dataset": choice("refcoco", "refcoco+", "refcocog", "refcocog_google", optional=True),
    "datasets": Check("a list of data set names, such as ['coco','vg']", _names, convert=list),
    "data_root": text("the folder of the arrow files"),
    "allow_missing_shards": flag(),
    "batch_size": size(1, MOST_PAIRS),
    "per_gpu_batchsize": size(0, MOST_PAIRS),
    "eval_batch_size": size(1, MOST_PAIRS, optional=True),
    "eval_limit": whole(1, optional=True),
    "train_transform_keys": _TRANSFORM,
    "val_transform_keys": _TRANSFORM,
    "num_workers": size(0, MOST_PROCESSES, optional=True),
    "model_type": choice("one-tower", "two-tower", optional=True),
    "pooler_type": choice("single", "double", optional=True),
    "tokenizer": text("a Hub id or a folder", optional=True),
    "vocab_size": size(1, MOST_PIECES, optional=True),
    "max_text_len": size(3, MOST_TOKENS, optional=True),
    "image_size": size(8, MOST_PIXELS, optional=True),
    "original_image_size": size(8, MOST_PIXELS, optional=True),
    "patch_size": size(1, MOST_PIXELS, optional=True),
    "initializer_range": number(0, above=True, optional=True),
    "freeze_encoder": flag(),
    "freeze_image_encoder": flag(),
    "freeze_text_encoder": flag(),
    "freeze_cross_modal_layers": flag(),
    "encoder": text("a Hub id or a folder", optional=True),
    "random_init_encoder": flag(),
    "encoder_manual_configuration": flag(),
    **_tower(""),
    "image_encoder": text("a Hub id or a folder", optional=True),
    "random_init_vision_encoder": flag(),
    "image_encoder_manual_configuration": flag(),
    **_tower("image_encoder_"),
    "text_encoder": text("a Hub id or a folder", optional=True),
    "random_init_text_encoder": flag(),
    "text_encoder_manual_configuration": flag(),
    **_tower("text_encoder_"),
    "fusion": choice("shared", "separate", "merged", optional=True),
    "cross_layer_hidden_size": size(1, MOST_WIDTH, optional=True),
    "num_cross_layers": size(1, MOST_LAYERS, optional=True),
    "num_cross_layer_heads": size(1, MOST_WIDTH, optional=True),
    "cross_layer_mlp_ratio": number(0, 1000, above=True, optional=True),
    "cross_layer_drop_rate": number(0, 0.999, optional=True),
    "loss_names": Check(f"weights of at least 0 for {', '.join(TASK_NAMES)}", _weights, convert=dict),
    "mlm_prob": number(0, 1, above=True),
    "whole_word_masking": flag(),
    "draw_false_image": whole(0, most=1),
    "negative_group": size(1, MOST_PAIRS, optional=True),
    "draw_false_text": size(0, MOST_PAIRS),
    "get_recall_metric": flag(),
    "rerank_top_k": whole(0, optional=True),
    "vqav2_label_size": size(2, MOST_WIDTH, optional=True),
    "text_only": flag(),
    "image_only": flag(),
    "blind": flag(),
    "blind_run": text("a run folder", optional=True),
    "optim_type": choice("adamw", "adam", "sgd"),
    "learning_rate": number(0, above=True),
    "lr_mult_cross_modal": number(0),
    "lr_mult_head": number(0),
    "lr_mult_random": number(0),
    "weight_decay": number(0),
    "decay_power": _DECAY,
    "warmup_steps": steps_or_share("a number of steps or a share of all steps below 1", 0, closed=False),
    "end_lr": number(0),
    "max_steps": whole(1, optional=True),
    "max_epoch": number(0, 1e9, above=True, optional=True),
    "val_check_interval": steps_or_share("a number of steps, or a share of an epoch up to 1.0", 1, closed=True),
    "gradient_clip_val": number(0, above=True, optional=True),
    "num_gpus": size(1, MOST_PROCESSES, optional=True),
    "num_nodes": size(1, 1 << 16),
    "accelerator": choice("auto", "gpu", "cpu"),
    "precision": _PRECISION,
    "gradient_checkpointing": flag(),
    "compile": flag(),
    "strategy": choice("ddp", "ddp_bf16", "zero1"),
    "float32_matmul_precision": choice("highest", "high", "medium"),
}


# The settings of every command that name files or folders; a Hub id begins with no ~.
PATHS = frozenset(
    {"log_dir", "load_path", "resume_from", "data_root", "tokenizer", "encoder", "image_encoder", "text_encoder"}
    | {"blind_run", "root", "annotations", "sheet_folder", "runs", "output", "image"}
)


def expanded(key: str, value: Any) -> Any:
    """A setting's value with `~` and `~user` written out where the setting is a path (`PATHS`), which no shell does
    behind `key=`; the value of any other setting as it is.

    Raises:
        UserError: no such user, or a NUL.
    """
    if key not in PATHS:
        return value
    if isinstance(value, (list, tuple)):
        return [expanded(key, each) for each in value]
    if key == "runs" and isinstance(value, str) and "," in value:
        return expanded(key, [each.strip() for each in value.split(",")])
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # a folder named 2024
    if not isinstance(value, str):
        return value
    if "\0" in value:
        raise UserError(f"{key}={printable(value)} is not allowed: a path holds no NUL.")
    path = os.path.expanduser(value)
    if path.startswith("~"):
        user = path.split("/")[0]
        raise UserError(f"{key}={value}: {user} is the home folder of nobody here; write ./{path} for a name with ~.")
    return path


def plain_path(path: str | os.PathLike) -> str:
    """The one spelling of a path: without links, and relative where it lies in the working folder; a Hub id stays one."""
    real = os.path.realpath(os.path.expanduser(path))
    relative = os.path.relpath(real, os.path.realpath(os.curdir))
    return real if relative.partition(os.sep)[0] == os.pardir else relative
