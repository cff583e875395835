"""From flat `key=value` settings to one frozen, checked `Settings`.

A `ConfigResolver` holds the flat values of a command with the source of each. It refuses what is wrong by itself, then
fills the keys that were left open from a checkpoint and from the pretrained models, and becomes `Settings`.
Order of authority: given on the command line or by a preset > checkpoint > model > fallback. Nothing here imports torch,
so that a wrong setting is refused at once.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from renaissance.core.checks import plain_path
from renaissance.core.errors import UserError
from renaissance.core.launch import available_cores, check_launch

from .combinations import near_multiples, problems_between
from .declared import SETTINGS, converted, defaults
from .keys import DIMENSIONS, FUSION, TOWER_KEYS, TOWERS, TYPE_KEYS, marked
from .sections import Section, Settings


class SettingsError(UserError):
    """One or several settings, or words, are wrong. The message lists every problem."""

    def __init__(self, problems: list[str], what: str = "settings"):
        self.problems = problems
        several = f"{len(problems)} {what} are wrong:\n" + "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(problems[0] if len(problems) == 1 else several)


def refuse(problems: Iterable[str], what: str = "settings") -> None:
    """Raises a `SettingsError` of the problems, where there are any."""
    if found := [*problems]:
        raise SettingsError(found, what)


class ConfigResolver:
    """The flat settings of a command before the models have answered.

    Args:
        values: every key of config.py with its value.
        sources: where each value came from that is not the default: "given", "preset <name>".

    Raises:
        SettingsError: listing every problem that can be seen without a checkpoint or a model.
    """

    def __init__(self, values: Mapping[str, Any], sources: Mapping[str, str], *, starts_later: bool = False):
        self._later = {"load_path": "a run of the same study"} if starts_later else {}
        self.raw, self.given = dict(values), frozenset(sources)
        self.sources = {key: sources.get(key, "default") for key in values}
        self.values, problems = converted(SETTINGS, values)
        refuse(problems or problems_between(self.values | self._later, self.given))
        launch, problems = check_launch(self.values, self.given)
        refuse(problems)
        if launch.per_node is not None:
            for key, number in (("num_gpus", launch.per_node), ("num_nodes", launch.nodes)):
                self.set(key, number, launch.launcher)
        if self["ref_dataset"]:
            self.set("datasets", [self["ref_dataset"]], "ref_dataset")
        if not (self["resume_from"] or (self["test_only"] and not starts_later)):
            self.finalize_batches()

    @classmethod
    def from_checkpoint(cls, settings: Mapping[str, Any], path: str, **others: Any) -> ConfigResolver:
        """The settings of a command that gives load_path=path, and all else as the checkpoint has it.

        Args:
            settings: of the checkpoint; those that this version does not know are left out.
            others: settings that the caller decides.
        """
        known = {key: value for key, value in settings.items() if key in SETTINGS}
        return cls(defaults() | known | {"load_path": path, "resume_from": None} | others, {})

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def set(self, key: str, value: Any, source: str) -> None:
        """Gives a setting a value, whatever it has had."""
        self.values[key], self.sources[key] = value, source

    def resuming(self, path: str | None) -> ConfigResolver:
        """The settings of the same command with a checkpoint to resume from, or with none."""
        replaced = {"resume_from": path, "load_path": None} if path else {"resume_from": None}
        sources = {key: source for key, source in self.sources.items() if key in self.given - replaced.keys()}
        return ConfigResolver(self.raw | replaced, sources | ({"resume_from": "auto"} if path else {}))

    def fill_defaults(self, source: str, values: Mapping[str, Any], may_differ: Container[str] | None = None) -> None:
        """Fills the settings that were not given from a checkpoint or a model.

        Args:
            source: "checkpoint" or "model <name>", for the report.
            values: by key; None says nothing.
            may_differ: keys that a command may give otherwise; None = those of adaptable weights.

        Raises:
            SettingsError: a given value contradicts one of the values.
        """
        may_differ = marked("adaptable") if may_differ is None else may_differ
        problems = []
        for key, value in values.items():
            if value is None or key not in self.values:
                continue
            if self.values[key] is None or self.sources[key] == "default":
                self.set(key, value, source)
            elif key not in may_differ and not _agree(key, self.values[key], value):
                problems.append(
                    f"{key}={self.values[key]} contradicts the {source}, which has {key}={value}; leave {key} out or give "
                    f"{value}{_manual_hint(key) if source != 'checkpoint' else ''}."
                )
        refuse(problems)

    def fill_open(self, values: Mapping[str, Any], source: str) -> None:
        """Fills the settings that are still None; `values` that are None say nothing."""
        for key, value in values.items():
            if self.values[key] is None and value is not None:
                self.set(key, value, source)

    def fill_fallbacks(self, keys: Iterable[str]) -> None:
        """Fills the settings that are still None by the fallbacks of their declarations."""
        self.fill_open({key: SETTINGS[key].check.fallback for key in keys}, "fallback")

    def name_towers(self) -> None:
        """Chooses the towers, after a checkpoint has filled its keys: one-tower by `encoder`, else two-tower."""
        self.fill_open({"model_type": "one-tower" if self["encoder"] else "two-tower"}, "encoder settings")
        self.fill_fallbacks(self.towers())
        if self["model_type"] == "one-tower" and not self["encoder"]:
            refuse(["model_type=one-tower needs encoder=<Hub id or folder>."])
        other = "two-tower" if self["model_type"] == "one-tower" else "one-tower"
        idle = [key for key in TYPE_KEYS[other] if key in self.given and self[key] not in (None, False)]
        stored = self.sources["model_type"] == "checkpoint"
        why = f": the checkpoint holds a {self['model_type']} model" if stored else ""
        refuse(f"{key} means something to {other} models only{why}; leave it out." for key in idle)

    def towers(self) -> tuple[str, ...]:
        """The tower keys in use: ("encoder",) or ("image_encoder", "text_encoder")."""
        return TOWERS[self["model_type"]]

    def tower(self, key: str) -> Section:
        """The settings of one tower.

        Returns:
            name; random, whether it starts from random weights, where no checkpoint brings others; manual, whether its sizes
            are set, and not the model's own; frozen; dimensions, the sizes by their plain names, which may still be None.
        """
        prefix, random_key, frozen_key = TOWER_KEYS[key]
        sizes, manual = {name: self[prefix + name] for name in DIMENSIONS}, self[f"{key}_manual_configuration"]
        random = manual or self[random_key]
        return Section(name=self[key], random=random, manual=manual, frozen=self[frozen_key], dimensions=sizes)

    def finalize(self) -> Settings:
        """Fills the open keys with fallbacks and returns the frozen settings.

        Raises:
            SettingsError: sizes that do not go together (heads that do not divide a width).
        """
        two = self["model_type"] == "two-tower"
        if not two:  # the image tower of the others has said what its patches are, or that it has none
            self.fill_open({"patch_size": 16}, "fallback")
        self.fill_fallbacks(SETTINGS.keys() - TOWER_KEYS.keys())
        computed = {"pooler_type": "double" if two else "single", "num_workers": default_workers(self["num_gpus"])}
        self.fill_open(computed | {"num_cross_layer_heads": max(1, self["cross_layer_hidden_size"] // 64)}, "fallback")
        refuse(problems_between(self.values | {"resume_from": None} | self._later))  # again: all settings are known
        return self._freeze(two)

    def finalize_batches(self) -> None:
        """Finalizes processes, micro-batches and groups; after a checkpoint has filled its keys, if there is one.

        Raises:
            SettingsError: sizes that do not divide each other.
        """
        self.fill_fallbacks(["num_gpus"])
        processes = self["num_gpus"] * self["num_nodes"]
        batch, micro = self["batch_size"], self["per_gpu_batchsize"]
        if not micro and batch % processes == 0:
            micro = self.values["per_gpu_batchsize"] = batch // processes
        if not micro or batch % (micro * processes):
            refuse([_batch_problem(batch, micro, processes)])
        self.fill_open({"negative_group": micro, "eval_batch_size": micro}, "per_gpu_batchsize")
        group = self["negative_group"]
        # By their names, and not by their classes, which import torch.
        grouped = [name for name in ("itm", "itc") if self["loss_names"].get(name)]
        if self["draw_false_image"] and "itm" in grouped:
            grouped.remove("itm")
        if grouped and group < 2:
            none = f"negative_group=1 leaves {grouped[0].upper()} no image to exchange"
            refuse([f"{none}; give negative_group and per_gpu_batchsize of 2 or more."])
        sizes = ("eval_batch_size",) if self["test_only"] else ("per_gpu_batchsize", "eval_batch_size")
        refuse(
            f"negative_group={group} does not divide {key}={self[key]}; give a divisor of it, or leave negative_group out."
            for key in sizes
            if grouped and self[key] % group
        )

    def _freeze(self, two: bool) -> Settings:
        flat = self.values
        values = flat | {key: self.tower(key) if key in self.towers() else None for key in TOWER_KEYS}
        values["fusion"] = Section(**{name: flat[key] for name, key in FUSION.items()}) if two else None
        values["loss_names"] = {name: float(weight) for name, weight in flat["loss_names"].items() if weight}
        values |= {key: tuple(flat[key] or ()) for key in ("datasets", "first_datasets")}
        sections: dict[str, dict[str, Any]] = {}
        for key, setting in SETTINGS.items():
            sections.setdefault(setting.section, {})[key] = values[key]
        sections["machine"]["processes"] = flat["num_gpus"] * flat["num_nodes"]
        built = {name: Section(**content) for name, content in sections.items()}
        return Settings(**built, flat=dict(flat), sources=dict(self.sources))


def default_workers(processes_here: int) -> int:
    """Loader processes for each training process: its share of the cores less one, at least 1 and at most 8."""
    return min(8, max(1, available_cores(processes_here) - 1))


def _agree(key: str, given: Any, answer: Any) -> bool:
    if SETTINGS[key].check.is_path and isinstance(given, str):
        return plain_path(given) == plain_path(answer)
    if isinstance(given, Mapping) and isinstance(answer, Mapping):  # a task that is younger than the checkpoint was off
        return all(given.get(name, 0) == answer.get(name, 0) for name in given.keys() | answer.keys())
    return given == answer


def _manual_hint(key: str) -> str:
    towers = [tower for tower, (prefix, _, _) in TOWER_KEYS.items() if key.removeprefix(prefix) in DIMENSIONS]
    advice = ", or set {}_manual_configuration=True to train a model of other sizes from random weights"
    return advice.format(towers[0]) if towers else ""


def _batch_problem(batch: int, micro: int, processes: int) -> str:
    """A sentence with the batch_size or per_gpu_batchsize that would fit."""
    unit = max(micro, 1) * processes
    near = near_multiples(batch, unit)
    if not micro:
        return f"batch_size={batch} is not a multiple of the {processes} processes; give batch_size={near}."
    share = batch // processes if batch % processes == 0 else 0
    largest = next((size for size in range(min(micro, share), 0, -1) if share % size == 0), 0)
    advice = f", or per_gpu_batchsize={largest}, the largest up to {micro} that fits" if largest else ""
    what = f"per_gpu_batchsize={micro} x {processes} process{'es' if processes > 1 else ''} = {unit}"
    return f"batch_size={batch} is not a multiple of {what}; give batch_size={near}{advice}."
