"""Random numbers that are a pure function of (seed, epoch, sample, purpose).

Every random choice of the data side (order, masks, false images, augmentation) comes from here and keeps no state, so
the number of workers, of processes and a resume change nothing. The generator is splitmix64 in counter mode: a 64-bit
key is hashed from these four values, and draw j is the finaliser applied to key + (j + 1) * golden ratio. It is vectorised
over samples: a whole micro-batch costs a few numpy calls.

Source of splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014; the finaliser
is Stafford's variant 13.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_GOLDEN_RATIO = 0x9E3779B97F4A7C15


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Applies the finaliser of splitmix64, a bijection of 64-bit words, to every element of an array (not a scalar)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@lru_cache(maxsize=256)
def _purpose_key(seed: int, purpose: str) -> int:
    """Hashes (seed, purpose) to 64 bits. Any integer is a seed; the digest is stable between runs, unlike `hash`."""
    digest = hashlib.blake2b(f"{seed}\0{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def bits(
    seed: int, epochs: Sequence[int] | NDArray, ids: Sequence[int] | NDArray, purpose: str, count: int
) -> NDArray[np.uint64]:
    """Draws `count` 64-bit words for each of B samples.

    Draw j of a sample does not depend on `count`, nor on the other samples, so padding and batching change nothing.

    Args:
        seed: the run's seed.
        epochs: (B,) the pass over the data that each sample belongs to.
        ids: (B,) position of each sample in its data set.
        purpose: what the numbers are for; different purposes are independent.
        count: words a sample.

    Returns:
        (B, count) uint64.
    """
    key = np.asarray(epochs, dtype=np.int64).view(np.uint64) + np.uint64(_purpose_key(seed, purpose))
    key = mix(mix(key) + np.asarray(ids, dtype=np.int64).view(np.uint64))
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN_RATIO)
    return mix(key[:, None] + steps)


def uniform(
    seed: int, epochs: Sequence[int] | NDArray, ids: Sequence[int] | NDArray, purpose: str, count: int
) -> NDArray[np.float64]:
    """Draws (B, count) numbers from [0, 1) with 53 random bits each; arguments as in `bits`."""
    return (bits(seed, epochs, ids, purpose, count) >> np.uint64(11)) * 2.0**-53


def torch_seed(seed: int, epoch: int, id: int, purpose: str) -> int:
    """Returns a seed in [0, 2**63) for a torch generator that serves one sample."""
    return int(bits(seed, [epoch], [id], purpose, 1)[0, 0]) >> 1
