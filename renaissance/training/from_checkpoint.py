"""What a run takes from the checkpoint that it starts from: settings, configurations, tokenizer, answer vocabularies.

A checkpoint may come from anybody: it fills in the model's settings, and for a resumed run all others, but never how a command
starts nor where it writes (`Check.command_only`).
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from renaissance.core.checks import RANDAUG
from renaissance.core.errors import UserError, first_line, printable, require, shortened
from renaissance.core.registry import TRANSFORMS
from renaissance.models import backbones
from renaissance.runs.stored import Stored
from renaissance.settings.declared import SETTINGS, defaults
from renaissance.settings.keys import TOWER_KEYS, YOUNGER, marked, model_keys
from renaissance.settings.resolver import ConfigResolver, refuse
from renaissance.settings.sections import Settings
from renaissance.tasks import downstream_task, task_class

_TRANSFORMS = ("train_transform_keys", "val_transform_keys")


def fill_settings(resolver: ConfigResolver, stored: Stored) -> Set[str]:
    """Fills in the settings that nobody gave.

    Returns:
        The keys that the checkpoint fixes, also where its value is None; without those that a command may change.

    Raises:
        SettingsError: the command contradicts it.
    """
    resumed = resolver["resume_from"] is not None
    evaluated = marked("evaluation") if resolver["test_only"] else frozenset()
    # What is younger than the checkpoint was as it is by default.
    younger = YOUNGER - marked("command_only")
    known = {key: value for key, value in defaults().items() if key in younger} | stored.settings
    fixed = known.keys() if resumed else model_keys()
    values = {key: value for key, value in known.items() if key in fixed | evaluated}
    may_differ = marked("changeable") if resumed else marked("adaptable") | evaluated | {*_TRANSFORMS}
    resolver.fill_defaults("checkpoint", values | ({} if resumed else _transforms(resolver, stored)), may_differ)
    if resumed or evaluated:
        resolver.finalize_batches()
    require(
        not evaluated or resolver["blind"] == stored.settings.get("blind", False),
        f"blind={resolver['blind']} contradicts the checkpoint, which learned with blind={not resolver['blind']}: images "
        "hidden or shown at test time only measure something else; leave blind out.",
    )
    return fixed - may_differ if resumed else fixed


def _transforms(resolver: ConfigResolver, stored: Stored) -> dict[str, list[str]]:
    """The transforms of a model that learned from images of their own aspect, where the command says nothing of images."""
    keys = {name: stored.settings.get(name, ["imagenet"]) for name in _TRANSFORMS}
    asked = any(resolver.sources[name] != "default" for name in _TRANSFORMS)
    names = [key[0].removesuffix(RANDAUG) for key in keys.values()]
    keep = all(name in TRANSFORMS and TRANSFORMS[name].keeps_aspect for name in names)
    return keys if keep and not asked else {}


def refuse_unused(resolver: ConfigResolver, stored: Stored, answered: Set[str]) -> None:
    """Refuses settings that would have no effect beside a checkpoint.

    Args:
        answered: of `fill_settings`.
    """
    given = {key: resolver[key] for key in resolver.given if resolver[key] is not None}
    problems = [
        f"{key}={given[key]}: the checkpoint has none; leave it out."
        for key in sorted(answered & given.keys())
        if given[key] and stored.settings.get(key) is None
    ]
    key = "initializer_range"
    chosen = {name for name, weight in resolver["loss_names"].items() if weight}
    loaded = resolver["load_path"] and chosen <= {name.partition(".")[0] for name in stored.heads}
    if loaded and given.get(key) not in (None, stored.settings.get(key)):
        tasks = ", ".join(sorted(chosen))
        problems.append(
            f"{key}={given[key]} would draw nothing: the checkpoint of load_path brings the weights of the model and of "
            f"the heads for {tasks}; leave it out."
        )
    refuse(problems)


def read_models(
    resolver: ConfigResolver, stored: Stored, notes: list[str]
) -> tuple[dict[str, PreTrainedConfig], PreTrainedTokenizerBase]:
    """The towers' configurations and the tokenizer as a checkpoint has them; nothing is asked of the Hub.

    Args:
        notes: for the report.

    Raises:
        UserError: they are none, or a text length is asked that they have no positions for.
    """
    with naming_checkpoint(resolver["load_path"], resolver["resume_from"]):
        configs = {key: _config(resolver, key, stored) for key in resolver.towers()}
        tokenizer = backbones.tokenizer_from_files(stored.tokenizer)
        highest, size = max(tokenizer.get_vocab().values(), default=0), stored.settings["vocab_size"]
        require(
            highest < size,
            f"its tokenizer numbers pieces up to {highest}, but its vocab_size is {size}; it is damaged.",
        )
    _refuse_longer_texts(resolver, stored, configs, notes)
    notes += [
        f"{key}={resolver[key]} (the checkpoint has {stored.settings[key]}): the weights are adapted"
        for key in ("image_size", "max_text_len")
        if resolver[key] != stored.settings[key]
    ]
    if unknown := sorted(stored.settings.keys() - SETTINGS.keys()):
        notes.append(f"the checkpoint has settings unknown to this version: {', '.join(map(printable, unknown))}")
    return configs, tokenizer


def label_vocabularies(
    settings: Settings, stored: Stored | None, reads_data: bool, notes: list[str]
) -> dict[str, tuple[str, ...]]:
    """The vocabulary of answers of the task that has one, by the task's name.

    Args:
        settings, stored: of the run and of the checkpoint that it starts from.
        reads_data: False takes a vocabulary that only data files know to be of its usual size.
        notes: for the report.

    Raises:
        UserError: the data have other answers than the checkpoint.
    """
    name = downstream_task(settings.objectives.loss_names)
    if name is None:
        return {}
    task = task_class(name)
    known = tuple(stored.labels.get(name, ())) if stored and same_benchmark(name, stored, settings) else ()
    found = task.label_names(settings, known) if reads_data or not task.labels_in_data else None
    where = settings.run.resume_from or settings.run.load_path
    require(
        not known or not found or known == found,
        f"The answers of {name} differ: the checkpoint {where} has {len(known):,} ({shortened(known)}), "
        f"data_root={settings.data.data_root} has {len(found or ()):,} ({shortened(found or ())}); take the data that the "
        "checkpoint was trained on, or start from a checkpoint of another task.",
    )
    labels = known if found is None else found
    if not labels and not reads_data and task.labels_in_data:
        labels = tuple(map(str, range(task.labels_in_data)))
        notes.append(f"{name}: no data is read; the number of answers is taken to be {len(labels):,}")
    return {name: labels} if labels else {}


def same_benchmark(name: str, stored: Stored, settings: Settings) -> bool:
    """Whether a checkpoint's head of a task is of the benchmark that the run reads, so that it can be taken over."""
    task = task_class(name)
    shared = not (task.has_dataset and task.head_by_dataset)
    return shared or list(stored.settings["datasets"]) == list(settings.data.datasets)


@contextmanager
def naming_checkpoint(load_path: str | None, resume_from: str | None = None) -> Iterator[None]:
    """Names the checkpoint in errors about its content, over which transformers and torch may fail in any way.

    Args:
        load_path, resume_from: the settings of which one names it; nothing is changed where neither does.
    """
    where = f"load_path={load_path}" if load_path else f"resume_from={resume_from}"
    try:
        yield
    except Exception as error:
        if where in str(error) or not (load_path or resume_from):
            raise
        if isinstance(error, UserError):
            raise UserError(f"{where}: {error}") from error
        raise UserError(
            f"{where} holds a model that cannot be built ({type(error).__name__}: {first_line(error)}); it is damaged, or was "
            "not written by this program."
        ) from error


def _config(resolver: ConfigResolver, key: str, stored: Stored) -> PreTrainedConfig:
    """A tower's configuration as the checkpoint has it, with the dropout that the command gives."""
    config = backbones.config_from_dict(
        stored.towers[key], allow_download=resolver["allow_download"], trust_remote_code=resolver["trust_remote_code"]
    )
    drop_rate = TOWER_KEYS[key][0] + "drop_rate"
    if resolver.sources[drop_rate] == "checkpoint":
        return config
    return backbones.override_dimensions(config, drop_rate=resolver[drop_rate])


def _refuse_longer_texts(resolver: ConfigResolver, stored: Stored, configs: dict[str, Any], notes: list[str]) -> None:
    """Text positions that were never trained cannot be had of a checkpoint; a preset that asks for more gets what it has."""
    limit, asked = stored.settings["max_text_len"], resolver["max_text_len"]
    untrained = resolver["model_type"] == "one-tower" and backbones.family_of(configs["encoder"]).modality == "image"
    if not untrained or asked <= limit:
        return
    require(
        resolver.sources["max_text_len"].startswith("preset"),
        f"max_text_len={asked} is more than the checkpoint's {limit} positions; give {limit} or less.",
    )
    notes.append(f"max_text_len={limit}: the checkpoint has no more positions for the {asked} of the preset")
    resolver.set("max_text_len", limit, "checkpoint")
