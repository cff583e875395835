"""From a study to its runs: the name of each, the words of its command, and the runs whose results it takes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from renaissance.core.errors import require
from renaissance.settings.words import written

from .spec import Stage, Study, Variant, presets_of, references, variant_key

# The words of a command -> its values by setting, and where each came from.
Configure = Callable[[Sequence[str]], tuple[dict[str, Any], dict[str, str]]]
_LONGEST = 100  # characters of a run's name
_OWN = ("exp_name", "log_dir", "seed", "resume_from")  # settings that the study decides


class PlannedRun(NamedTuple):
    """A run of a study.

    Attributes:
        name: its exp_name, unique in the study. stage; variant; seed.
        presets: words. settings: by name; values "stage:..." are not resolved.
        needs: setting -> (name of the run that it takes a result of, "best", "last" or None for its folder).
    """

    name: str
    stage: str
    variant: Variant
    seed: int
    presets: tuple[str, ...]
    settings: Variant
    needs: dict[str, tuple[str, str | None]]

    def words(self, folders: Mapping[str, Path]) -> list[str]:
        """The words behind `python run.py with`.

        Args:
            folders: run folders by name, of those that it needs.
        """
        resolved = dict(self.settings)
        for key, (name, what) in self.needs.items():
            folder = folders[name]
            resolved[key] = str(folder if what is None else folder / "checkpoints" / f"{what}.ckpt")
        return [*self.presets, *(f"{key}={written(value)}" for key, value in resolved.items())]

    def own_words(self) -> list[str]:
        """The words without results of other runs, which need not be there yet."""
        known = {key: value for key, value in self.settings.items() if key not in self.needs}
        return self._replace(settings=known, needs={}).words({})


def plan(study: Study, log_dir: str, common: Mapping[str, Any]) -> list[PlannedRun]:
    """All runs, those that others need first.

    Args:
        log_dir: folder of the run folders. common: settings that the command gives to all, such as data_root.

    Raises:
        UserError: a stage gives a setting that the study decides, or there are more runs than the budget allows.
    """
    runs: list[PlannedRun] = []
    for stage in study.stages:
        keys = dict.fromkeys(key for variant in stage.variants for key in variant)
        own = [key for key in (*stage.settings, *keys) if key in _OWN]
        where = f"study={study.name}: stage {stage.name}"
        require(not own, f"{where} gives {own[:1]}, which the study decides; leave it out.")
        varied = [key for key in common if any(key in variant for variant in stage.variants)]
        require(not varied, f"{where} varies {', '.join(varied)}, which the command gives to all; leave it out there.")
        for variant, seed in product(stage.variants, stage.seeds):
            name = _name(stage, variant, seed)
            set_here = {key: value for key, value in variant.items() if key not in stage.labels and key != "presets"}
            presets = (*stage.presets, *presets_of(variant, where))
            settings = {**stage.settings, **set_here, **common}
            needs = {
                key: (_needed(runs, study.stage(found["stage"]), stage, variant, seed), found["what"])
                for key, found in references(settings).items()
            }
            settings |= {"seed": seed, "exp_name": name, "log_dir": log_dir, "resume_from": "auto"}
            runs.append(PlannedRun(name, stage.name, variant, seed, presets, settings, needs))
    most = study.most_runs
    require(
        most is None or len(runs) <= most,
        f"study={study.name} has {len(runs):,} runs, and its budget allows max_runs={most}; raise it, or take variants out.",
    )
    return runs


def _needed(runs: Sequence[PlannedRun], stage: Stage, taker: Stage, variant: Variant, seed: int) -> str:
    """The name of the run of a stage that a run of another stage, `taker`, takes a result of: of the same variant and seed."""
    prefix = f"{stage.name}."
    own = {
        key.removeprefix(prefix): value
        for key, value in variant.items()
        if key in taker.labels and key.startswith(prefix)
    }
    varied = {key for each in taker.own for key in each}
    shared = {key: value for key, value in variant.items() if key not in varied and not key.startswith(prefix)}
    keys = {key for each in stage.variants for key in each}
    wanted = variant_key({key: value for key, value in (shared | own).items() if key in keys})
    seed = seed if seed in stage.seeds else stage.seeds[0]
    return next(
        run.name for run in runs if (run.stage, variant_key(run.variant), run.seed) == (stage.name, wanted, seed)
    )


def _name(stage: Stage, variant: Variant, seed: int) -> str:
    """A name that says what the run is, and depends on nothing else, so that a study may grow."""
    said = "_".join(f"{key}={value}" for key, value in sorted(variant.items()))
    plain = re.sub(r"[^\w=.,+-]+", "-", said)
    name = "_".join(filter(None, (stage.name, plain, f"seed={seed}")))
    if plain == said and len(name) <= _LONGEST:
        return name
    digest = hashlib.sha256(variant_key(variant).encode()).hexdigest()[:8]
    room = _LONGEST - len(stage.name) - len(digest) - len(f"___seed={seed}")
    return "_".join((stage.name, plain[:room].rstrip("-_"), digest, f"seed={seed}"))
