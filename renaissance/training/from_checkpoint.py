"""What a run takes from the checkpoint that it starts from: settings, configurations, tokenizer, weights.

A checkpoint may come from anybody: it fills in the model's settings, and for a resumed run all others, but never how a command
starts (`keys.START_KEYS`) nor where it writes (`keys.PLACE_KEYS`).
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from renaissance.core.errors import UserError, first_line, printable
from renaissance.models import backbones
from renaissance.runs.checkpoint import Stored
from renaissance.settings.draft import Draft, SettingsError
from renaissance.settings.keys import (
    ADAPTABLE,
    EVALUATION_KEYS,
    MODEL_KEYS,
    PLACE_KEYS,
    RESUMABLE,
    START_KEYS,
    TOWER_KEYS,
)


def fill_settings(draft: Draft, stored: Stored) -> Set[str]:
    """Fills in the settings that nobody gave.

    Returns:
        The keys that the checkpoint fixes, also where its value is None; without those that a command may change.

    Raises:
        SettingsError: the command contradicts it.
    """
    resumed = draft["resume_from"] is not None
    evaluated = EVALUATION_KEYS if draft["test_only"] else frozenset()
    keys = stored.settings.keys() - START_KEYS - PLACE_KEYS if resumed else {*MODEL_KEYS, *evaluated}
    answers = {key: stored.settings[key] for key in keys if key in stored.settings}
    free = RESUMABLE if resumed else ADAPTABLE | evaluated
    draft.answer("checkpoint", answers, free=free)
    if resumed or evaluated:
        draft.settle_batches()
    if evaluated and draft["blind"] != stored.settings.get("blind", False):
        raise SettingsError(
            [
                f"blind={draft['blind']} contradicts the checkpoint, which learned with blind={not draft['blind']}: pictures "
                "hidden or shown at test time only measure something else; leave blind out."
            ]
        )
    return keys - free if resumed else {*MODEL_KEYS}


def refuse_unused(draft: Draft, stored: Stored, answered: Set[str]) -> None:
    """Refuses settings that would have no effect beside a checkpoint.

    Args:
        answered: of `fill_settings`.
    """
    given = {key: draft[key] for key in draft.given if draft[key] is not None}
    problems = [
        f"{key}={given[key]}: the checkpoint has none; leave it out."
        for key in sorted(answered & given.keys())
        if given[key] and stored.settings.get(key) is None
    ]
    key = "initializer_range"
    chosen = {name for name, weight in draft["loss_names"].items() if weight}
    loaded = draft["load_path"] and chosen <= {name.partition(".")[0] for name in stored.heads}
    if loaded and given.get(key) not in (None, stored.settings[key]):
        tasks = ", ".join(sorted(chosen))
        problems.append(
            f"{key}={given[key]} would draw nothing: the checkpoint of load_path brings the weights of the model and of "
            f"the heads for {tasks}; leave it out."
        )
    if problems:
        raise SettingsError(problems)


def read_models(
    draft: Draft, stored: Stored, notes: list[str]
) -> tuple[dict[str, PreTrainedConfig], PreTrainedTokenizerBase]:
    """The towers' configurations and the tokenizer as a checkpoint has them; nothing is asked of the Hub.

    Args:
        notes: for the report.

    Raises:
        UserError: they are none, or a text length is asked that they have no positions for.
    """
    with naming_checkpoint(draft["load_path"], draft["resume_from"]):
        configs = {key: _config(draft, key, stored) for key in draft.towers()}
        tokenizer = backbones.tokenizer_from_files(stored.tokenizer)
        highest = max(tokenizer.get_vocab().values(), default=0)
        if highest >= stored.settings["vocab_size"]:
            size = stored.settings["vocab_size"]
            raise UserError(
                f"its tokenizer numbers pieces up to {highest}, but its vocab_size is {size}; it is damaged."
            )
    _refuse_longer_texts(draft, stored, configs, notes)
    notes += [
        f"{key}={draft[key]} (the checkpoint has {stored.settings[key]}): the weights are adapted"
        for key in ("image_size", "max_text_len")
        if draft[key] != stored.settings[key]
    ]
    if unknown := sorted(stored.settings.keys() - draft.values.keys()):
        notes.append(
            f"the checkpoint has settings that this version does not know: {', '.join(map(printable, unknown))}"
        )
    return configs, tokenizer


@contextmanager
def naming_checkpoint(load_path: str | None, resume_from: str | None = None) -> Iterator[None]:
    """Names the checkpoint in errors about its content, over which transformers and torch may fail in any way.

    Args:
        load_path, resume_from: the settings of which one names it; nothing is changed where neither does.
    """
    where = f"load_path={load_path}" if load_path else f"resume_from={resume_from}"
    try:
        yield
    except UserError as error:
        if where in str(error) or not (load_path or resume_from):
            raise
        raise UserError(f"{where}: {error}") from error
    except Exception as error:
        if not (load_path or resume_from):
            raise
        raise UserError(
            f"{where} holds a model that cannot be built ({type(error).__name__}: {first_line(error)}); it is damaged, or was "
            "not written by this program."
        ) from error


def _config(draft: Draft, key: str, stored: Stored) -> PreTrainedConfig:
    """A tower's configuration as the checkpoint has it, with the dropout that the command gives."""
    config = backbones.config_from_dict(
        stored.towers[key], allow_download=draft["allow_download"], trust_remote_code=draft["trust_remote_code"]
    )
    if draft.sources[TOWER_KEYS[key][0] + "drop_rate"] == "checkpoint":
        return config
    return backbones.override_dimensions(config, drop_rate=draft.tower(key).drop_rate)


def _refuse_longer_texts(draft: Draft, stored: Stored, configs: dict[str, Any], notes: list[str]) -> None:
    """Text positions that were never trained cannot be had of a checkpoint; a preset that asks for more gets what it has."""
    limit = stored.settings["max_text_len"]
    if draft["model_type"] == "two-tower" or draft["max_text_len"] <= limit:
        return
    if backbones.family_of(configs["encoder"]).modality == "image":
        if draft.sources["max_text_len"].startswith("preset"):
            notes.append(
                f"max_text_len={limit}: the checkpoint has no more positions for the {draft['max_text_len']} of the preset"
            )
            draft.values["max_text_len"], draft.sources["max_text_len"] = limit, "checkpoint"
            return
        raise SettingsError(
            [
                f"max_text_len={draft['max_text_len']} is more than the checkpoint's {limit} positions; give {limit} or less."
            ]
        )
