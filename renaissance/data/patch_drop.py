"""Patch dropping: which patches of each image a step of training encodes.

A share of the patches, drawn anew for each image in each epoch, is left out behind the patch embedding, so that the blocks have
that much less to compute.

Source: FLIP (Li et al., "Scaling language-image pre-training via masking", CVPR 2023), which also ends with some steps that see
all patches, so that training ends on what an evaluation shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .randomness import bits


@dataclass(frozen=True)
class PatchDrop:
    """Chooses the patches that stay; picklable.

    Args:
        share: of the patches to leave out; at least one stays, and at least one goes.
        patches: of an image.
        steps: the first step that encodes all patches.
        seed: the run's seed.
    """

    share: float
    patches: int
    steps: int
    seed: int

    @property
    def count(self) -> int:
        """K, how many patches of an image stay."""
        return round((1 - self.share) * self.patches)

    def kept(self, shown: Sequence[tuple[int, int, int]]) -> Tensor:
        """Chooses patches, each set of them with the same probability: a function of the seed and what `shown` says of an image.

        Args:
            shown: of each of M images: epoch, id of its sample, place among the sample's images.

        Returns:
            (M, K) int64, in ascending order.
        """
        epochs, ids, places = np.array(shown, dtype=np.int64).T
        draws = np.empty((len(shown), self.patches), dtype=np.uint64)
        for place in np.unique(places).tolist():
            rows = places == place
            draws[rows] = bits(self.seed, epochs[rows], ids[rows], f"patch_drop {place}", self.patches)
        return torch.from_numpy(np.sort(np.argpartition(draws, self.count, axis=1)[:, : self.count], axis=1))
