"""Whether heat maps of words point at what the words name: the pointing game (Zhang et al. 2016) in the demo's world.

Each cell of a scene is a patch, so a map has a value for each cell. Scenes have two or three objects: to find what stands out is
not enough. The same of random weights (the sanity check of Adebayo et al. 2018) tells what of a map comes from the method alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from renaissance.inference.heat_map import METHODS
from renaissance.inference.loaded import Loaded
from renaissance.models.initialization import initialize

from .probes import make_probes
from .world import COLUMNS, ROWS, Scene, render

SCENES = 40


def pointing(path: Path, scenes: Sequence[Scene], seed: int) -> dict[str, dict[str, float]]:
    """How the heat maps of colours and shapes in captions lie on the objects that they name.

    Args:
        path: of a checkpoint. scenes: held-out ones; the first `SCENES` with several objects are asked. seed: of the random
            weights.

    Returns:
        {method: {"peak": share of words whose highest patch is the object's, "share": mean of what of the map lies on it,
        "random_peak", "random_share": the same with random weights}}.
    """
    several = [scene for scene in scenes if len(scene.objects) > 1][:SCENES]
    loaded, figures = Loaded(path), {method: {} for method in METHODS}
    for prefix in ("", "random_"):
        if prefix:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                initialize(loaded.model)
                initialize(loaded.heads)
        for method in METHODS:
            peaks, shares = zip(*_on_objects(loaded, several, method), strict=True)
            figures[method] |= {f"{prefix}peak": float(np.mean(peaks)), f"{prefix}share": float(np.mean(shares))}
    return figures


def _on_objects(loaded: Loaded, scenes: Sequence[Scene], method: str) -> list[tuple[bool, float]]:
    """Of each word whether the map's peak is on its object, and the share of the map that is."""
    found = []
    for probe in make_probes(scenes):
        if probe.target.kind in ("colour", "shape"):
            scene, word = scenes[probe.image], probe.target.word
            named = next(thing for thing in scene.objects if word in (thing.colour, thing.shape))
            cell = ROWS.index(named.row), COLUMNS.index(named.column)
            heat = loaded.explain(render(scene), probe.text, word, method)
            found.append((heat.peaks_at(*cell), float(heat.values[cell])))
    return found
