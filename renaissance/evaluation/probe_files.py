"""What is written of probes: the table of results.md, and Winoground's score file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd


def winoground_file(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The entries of Winoground's official score file: {"label": "<id>_c<text>_i<picture>", "score"}."""
    return [
        {"label": f"{row.id}_c{text}_i{image}", "score": float(row.scores[image][text])}
        for row in frame.itertuples()
        for text in range(2)
        for image in range(2)
    ]


def table_lines(results: Mapping[str, Mapping[str, Mapping[str, Any]]], published: Mapping[str, str]) -> list[str]:
    """The table of `results.md`: what a benchmark measures, without pictures, by chance, and what others have published.

    Args:
        results: {benchmark: {metric: `MetricDetails.record` with "value"}}.
        published: {"<benchmark>/<metric>": what stands beside it}.
    """
    head = ("benchmark", "metric", "score", "95 % interval", "ties", "blind", "text only", "chance", "published")
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for benchmark, metrics in results.items():
        for name, each in metrics.items():
            if name.endswith(("_blind", "_text_only")):
                continue
            low, high = map(_shown, each["interval"] or (None, None))
            beside = [metrics.get(f"{name}{ending}", {}).get("value") for ending in ("_blind", "_text_only")]
            ties = "" if each["ties"] is None else f"{each['ties']:,}"
            chance = (each["baseline"] or {}).get("chance")
            cells = [_shown(each["value"]), low and f"{low} to {high}", ties, *map(_shown, (*beside, chance))]
            lines.append(f"| {' | '.join([benchmark, name, *cells, published.get(f'{benchmark}/{name}', '')])} |")
    return lines


def _shown(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{100 * value:.2f}"
