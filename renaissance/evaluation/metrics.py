"""Metrics of benchmarks that torchmetrics lacks, over the rows of a whole split."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import pandas as pd


def consistency(groups: Sequence[Hashable], right: Sequence[bool]) -> float:
    """The share of groups whose examples are all right: NLVR2's, where a group is a sentence with all its picture pairs.

    Args:
        groups: (n,) which group each example is of. right: (n,) whether it is right.

    Returns:
        0..1; NaN without an example. Source: `nlvr2/eval/metrics.py` of lil-lab/nlvr (Suhr et al., ACL 2019).
    """
    return float(pd.Series(list(right), dtype=bool).groupby(list(groups)).all().mean())
