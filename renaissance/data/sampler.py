"""Which samples a process sees at each step: the training stream and the evaluation batches.

Training is one endless sequence. Position p belongs to epoch p // N and shows sample perm(seed, epoch)[p % N]; step s
takes the `batch_size` positions from s * batch_size on; each process takes a contiguous block of them and cuts it into
micro-batches in order. So a batch may cross the border of two epochs, every epoch shows every sample once, and the
position in the data *is* the step: a run resumes by starting at another step, on any number of processes. Where the first
steps show other samples, they take them from such a sequence of these, and what the other one has at their positions is left out.

perm is a keyed bijection computed on the fly, not an array: a hundred million captions cost no memory and no start-up
time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from .randomness import bits, mix

_ROUNDS = 8  # Luby-Rackoff needs 4 with independent round functions; half of our rounds change each side


class Draw(NamedTuple):
    """One sample of the stream. Attributes: epoch, the pass over the data; id, position of the sample in the data set;
    step, the optimizer step."""

    epoch: int
    id: int
    step: int = 0


class Pool(NamedTuple):
    """The samples that training shows: those of the data sets, in the first steps perhaps others.

    Attributes:
        size: samples of an epoch; their ids are 0 to size - 1.
        first_steps: how many steps show others. first: the ids of these, in ranges.
    """

    size: int
    first_steps: int = 0
    first: tuple[range, ...] = ()

    def at(self, step: int) -> tuple[range, ...]:
        """The ids, in ranges, of the samples that a step is drawn from."""
        return self.first if step < self.first_steps else (range(self.size),)


def ids_at(ranges: tuple[range, ...], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The ids at places of ranges put end to end."""
    ends = np.cumsum([len(each) for each in ranges])
    starts = np.array([each.stop for each in ranges]) - ends  # minus places before
    return places + starts[np.searchsorted(ends, places, "right")]


def _feistel(x: NDArray[np.uint64], keys: NDArray[np.uint64], left_bits: int, right_bits: int) -> NDArray[np.uint64]:
    """Permutes the integers below 2**(left_bits + right_bits) by an alternating (unbalanced) Feistel network.

    Args:
        x: (n,) the integers.
        keys: (n, _ROUNDS) round keys, a row for each integer.
        left_bits: width of the upper part.
        right_bits: width of the lower part.
    """
    left_mask, right_mask = np.uint64((1 << left_bits) - 1), np.uint64((1 << right_bits) - 1)
    shift = np.uint64(right_bits)
    left, right = x >> shift, x & right_mask
    for i in range(0, _ROUNDS, 2):
        left = left ^ (mix(right ^ keys[:, i]) & left_mask)
        right = right ^ (mix(left ^ keys[:, i + 1]) & right_mask)
    return (left << shift) | right


def permuted(seed: int, epochs: NDArray[np.int64], places: NDArray[np.int64], num_samples: int) -> NDArray[np.int64]:
    """Returns perm(seed, epoch)[place], for each of n pairs of epoch and place.

    The network permutes the smallest power of two that holds the data set; a value that falls outside the data set is
    put through it again ("cycle walking", Black and Rogaway, CT-RSA 2002), under twice on average, which leaves a
    bijection.

    Args:
        seed: the run's seed.
        epochs: (n,) which permutation.
        places: (n,) index into that permutation, 0 <= place < num_samples.
        num_samples: N, size of the data set.

    Returns:
        (n,) sample ids, 0 <= id < num_samples.
    """
    width = max(4, (num_samples - 1).bit_length())  # under 4 bits a half is so narrow that few orders can come out
    keys = bits(seed, epochs, np.zeros_like(epochs), "order", _ROUNDS)
    x = _feistel(places.astype(np.uint64), keys, width // 2, width - width // 2)
    while (outside := np.flatnonzero(x >= num_samples)).size:
        x[outside] = _feistel(x[outside], keys[outside], width // 2, width - width // 2)
    return x.astype(np.int64)


@dataclass(eq=False)
class TrainSteps(Sampler[list[Draw]]):
    """The samples of this process, one list a step, for the steps first_step <= s < last_step.

    Args:
        pool: the samples, at least one in each step.
        batch_size: samples of one optimizer step over all processes.
        per_gpu_batchsize: samples of one micro-batch; batch_size is a multiple of per_gpu_batchsize * world_size.
        rank: this process, 0 <= rank < world_size.
        world_size: number of processes.
        seed: the run's seed.
        first_step: 0, or where a resumed run goes on.
        last_step: number of steps of the whole run.
    """

    pool: Pool
    batch_size: int
    per_gpu_batchsize: int
    rank: int
    world_size: int
    seed: int
    first_step: int
    last_step: int

    def __post_init__(self) -> None:
        if self.batch_size % (self.per_gpu_batchsize * self.world_size):
            raise ValueError(f"{self.batch_size} is no multiple of {self.per_gpu_batchsize} x {self.world_size}")

    def __len__(self) -> int:
        return max(0, self.last_step - self.first_step)

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in range(self.first_step, self.last_step):
            yield self.draws(step)

    def draws(self, step: int) -> list[Draw]:
        """Returns this process's batch_size / world_size samples of one step, in order."""
        share = self.batch_size // self.world_size
        start = step * self.batch_size + self.rank * share
        ranges = self.pool.at(step)
        size = sum(map(len, ranges))
        epochs, places = np.divmod(np.arange(start, start + share, dtype=np.int64), size)
        ids = ids_at(ranges, permuted(self.seed, epochs, places, size))
        return [Draw(epoch, id, step) for epoch, id in zip(epochs.tolist(), ids.tolist(), strict=True)]


class EvalBatches(Sampler[list[Draw]]):
    """Evaluation: every sample exactly once over all processes, in order, nothing padded or repeated.

    Whole batches are dealt to the processes in turn, so what is in a batch does not depend on their number; a process
    may get one batch more than another, and the last batch may be short. Where there are fewer batches than processes,
    those without one get a single batch of no samples: they too must run an evaluation, in which the results of all
    processes are brought together. Every draw is of epoch 0: masks and negatives
    are the same at each evaluation, and its numbers compare.

    Args:
        num_samples: size of the data set.
        eval_batch_size: samples of one batch.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(self, num_samples: int, eval_batch_size: int, rank: int, world_size: int) -> None:
        self.num_samples = num_samples
        self.eval_batch_size = eval_batch_size
        starts = range(rank * eval_batch_size, num_samples, world_size * eval_batch_size)
        self.starts = starts or range(num_samples, num_samples + 1)  # from there on there are no samples

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[Draw]]:
        for start in self.starts:
            yield [Draw(0, id) for id in range(start, min(start + self.eval_batch_size, self.num_samples))]
