"""Image-text matching: which image, the own or a false one, each text is shown with."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from renaissance.core.errors import require
from renaissance.core.types import Example, ItcTargets, ItmTargets

from .identity import text_key

if TYPE_CHECKING:
    from .collate import MicroBatch

_FALSE = 0.5  # share of the samples that are to get a false image
_MAX_DRAWS = 16  # from the whole data set: enough for an image that is unlike, few enough to end where all are alike


class FalseImages:
    """Builds `ItmTargets`; picklable.

    A sample is matched or not with probability 1/2, by (seed, epoch, id). A false image is never the same image, nor one
    with the same caption. A sample without a false image stays matched, and is marked so.

    Args:
        seed: the run's seed.
        group: false images come from the sample's group, `group` consecutive samples of the micro-batch counted from
            its first one; they are there already, so they cost neither a decoding nor a pass through the tower.
        draw_false_image: 1 to draw them from the whole data set instead; each is then an added image of the
            micro-batch.

    Raises:
        UserError: the group is too small to hold a false image.
    """

    def __init__(self, seed: int, group: int, draw_false_image: int) -> None:
        require(
            draw_false_image or group >= 2,
            f"negative_group={group} leaves no other image to take as the false one: give at least 2 (and a "
            "per_gpu_batchsize that it divides), or draw_false_image=1.",
        )
        self.seed = seed
        self.group = group
        self.draw_false_image = draw_false_image
        self.share = _FALSE

    def largest(self) -> FalseImages:
        """The same with a false image for every sample: the most images that a micro-batch can have."""
        other = copy(self)
        other.share = 1.0
        return other

    def __call__(self, micro: MicroBatch) -> ItmTargets:
        """Builds the targets of a micro-batch; with draw_false_image=1 it gets an image more for each false one."""
        draws, size = micro.uniform(self.seed, "itm", 1 + _MAX_DRAWS), len(micro.examples)
        find = self._from_dataset if self.draw_false_image else self._from_group
        index = list(range(size))
        stayed = [False] * size
        for i in (draws[:, 0] < self.share).nonzero()[0].tolist():
            found = find(micro, i, draws[i, 1:])
            stayed[i] = found is None
            index[i] = i if found is None else found
        image_index, shown = torch.tensor(index), micro.shown
        image_ids = np.array([shown[each][1] for each in index])  # no tensor: it stays where it is
        return ItmTargets(image_index, (image_index == torch.arange(size)).long(), torch.tensor(stayed), image_ids)

    def _from_group(self, micro: MicroBatch, i: int, draws: NDArray[np.float64]) -> int | None:
        """Returns the index of an eligible image of the group of sample i, each with the same probability."""
        example = micro.examples[i]
        start = i - i % self.group
        members = range(start, min(start + self.group, len(micro.examples)))
        key = text_key(example.text)
        eligible = [j for j in members if _is_false(example, key, micro.examples[j])]
        return eligible[int(draws[0] * len(eligible))] if eligible else None

    def _from_dataset(self, micro: MicroBatch, i: int, draws: NDArray[np.float64]) -> int | None:
        """Draws from the data set until an image is eligible, adds it to the micro-batch and returns its index."""
        example = micro.examples[i]
        key = text_key(example.text)
        for candidate in micro.source.others(example.step, draws):
            pair = micro.source.dataset[candidate]
            if _is_false(example, key, pair):
                return micro.add_image(micro.source.images(pair, example.epoch)[0], example.epoch, pair.id)
        return None


class ContrastiveGroups:
    """Builds `ItcTargets`; picklable.

    A text is contrasted with the images of its group of `group` consecutive samples, so the loss does not depend on how a
    step is cut into micro-batches. Left out are images that it may be true of: the same image, or one that shares a
    caption with the sample.

    Args:
        group: samples of a group.
    """

    def __init__(self, group: int) -> None:
        self.group = group

    def __call__(self, micro: MicroBatch) -> ItcTargets:
        """Builds the targets of a micro-batch."""
        examples = micro.examples
        keys = [text_key(example.text) for example in examples]
        compared = np.eye(len(examples), dtype=bool)  # not a tensor, whose elements are dear to set
        for start in range(0, len(examples), self.group):
            group = slice(start, start + self.group)
            false = np.array([[_is_false(one, key, other) for other in examples[group]]
                              for one, key in zip(examples[group], keys[group], strict=True)])  # fmt: skip
            compared[group, group] |= false & false.T
        return ItcTargets(torch.from_numpy(compared))


def _is_false(example: Example, key: int, candidate: Example) -> bool:
    """Tells whether the candidate's image is another one, without a caption equal to the example's (of key `key`)."""
    return candidate.image_key != example.image_key and key not in candidate.text_keys
