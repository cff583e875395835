"""Figures are the same each time, and labels are texts."""

from __future__ import annotations

from pathlib import Path

from renaissance.core.figures import write_figure


def test_a_label_is_no_formula_and_the_same_figure_the_same_file(tmp_path: Path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    for name in ("a", "b"):
        files = write_figure(
            tmp_path / name, "log_dir", "one", lambda axes: axes.plot([1, 2], [1, 2], label=r"/a/$x_{$/b")
        )
        assert files == ["one.png", "one.svg"]
    assert (tmp_path / "a" / "one.svg").read_bytes() == (tmp_path / "b" / "one.svg").read_bytes()
