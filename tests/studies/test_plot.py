"""Figures of studies: what is drawn where, and the same file each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from renaissance.studies import plot
from studies.test_table import METRIC, state, study


def runs(folder: Path) -> list:
    found = []
    for place, frozen in enumerate((False, True)):
        for seed in (0, 1, 2):
            made = state(
                folder, {"freeze_text_encoder": frozen}, seed, 0.4 + 0.1 * place + 0.02 * seed,
                parameters={"all": {"total": 14_000_000, "trainable": 14_000_000 - 9_000_000 * place}},
                settings={"batch_size": 8},
            )  # fmt: skip
            rows = [f"{step},{0.1 + place * 0.05 + seed * 0.02 + step / 1000}" for step in range(50, 300, 50)]
            (made.folder / "metrics.csv").write_text("\n".join([f"step,{METRIC}", *rows, ""]))
            found.append(made._replace(attempt={"status": 0, "line": "", "seconds": 3600.0 * (1 + seed), "took": {}}))
    return found


COSTS = [("parameters", 14e6), ("trainable", 5e6), ("steps", 250), ("samples", 2000), ("hours", 2), ("flops", 250e9)]


@pytest.mark.parametrize(("cost", "wanted"), COSTS)
def test_each_variant_has_its_scores_and_costs(cost, wanted, tmp_path, monkeypatch):
    drawn = {}
    scatter = plot._scatter
    monkeypatch.setattr(
        plot, "_scatter", lambda axes, points, *rest: drawn.update(points) or scatter(axes, points, *rest)
    )
    (tmp_path / "runs").mkdir()
    found = runs(tmp_path / "runs")
    flops = {each.run.name: 10**9 for each in found}
    files, left_out = plot.plot(study(), found, tmp_path / "plots", cost, flops)
    assert not left_out
    assert files == [f"mlm_val_accuracy_{kind}.{form}" for kind in (f"by_{cost}", "curves") for form in ("png", "svg")]
    assert [*drawn] == ["freeze_text_encoder=False", "freeze_text_encoder=True"]
    x, y = drawn["freeze_text_encoder=True"].mean(0)
    assert (x, y) == (pytest.approx(wanted), pytest.approx(0.52))
    first = {name: (tmp_path / "plots" / name).read_bytes() for name in files}
    image = np.asarray(Image.open(tmp_path / "plots" / files[0]).convert("RGB"))
    assert image.shape == (720, 960, 3) and len(np.unique(image.reshape(-1, 3), axis=0)) > 50
    assert b"freeze_text_encoder" in first[files[1]] or b"<path" in first[files[1]]
    plot.plot(study(), found, tmp_path / "plots", cost, flops)
    assert {name: (tmp_path / "plots" / name).read_bytes() for name in files} == first


def test_runs_without_a_known_cost_are_named(tmp_path):
    (tmp_path / "runs").mkdir()
    found = runs(tmp_path / "runs")
    flops = {each.run.name: 10**9 for each in found} | {found[1].run.name: None}
    _, left_out = plot.plot(study(), found, tmp_path / "plots", "flops", flops)
    assert left_out == [found[1].run.name]


def test_equal_costs_have_one_tick(tmp_path):
    from matplotlib.figure import Figure

    for x in (250.0, 0.0):
        axes = Figure().subplots()
        plot._scatter(axes, {"a": np.array([[x, 0.4], [x, 0.5]]), "b": np.array([[x, 0.6]])}, METRIC, "steps")
        low, high = axes.get_xlim()
        assert axes.get_xticks().tolist() == [x] and high - x == pytest.approx(x - low) and high - low >= 0.2 * x


def test_curves_are_of_the_steps_that_all_seeds_have(tmp_path):
    (tmp_path / "runs").mkdir()
    found = runs(tmp_path / "runs")
    (found[0].folder / "metrics.csv").write_text(f"step,{METRIC}\n50,0.1\n75,0.2\n100,0.3\n")
    (variant, _) = plot.measured_variants(study(), found)[METRIC]
    steps, scores = plot._curve(variant, METRIC)
    assert steps.tolist() == [50, 100] and scores.shape == (3, 2) and scores[0].tolist() == [0.1, 0.3]
