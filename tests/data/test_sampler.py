"""The order of training and the dealing of evaluation batches."""

import numpy as np
import pytest

from renaissance.data.randomness import bits, mix, torch_seed, uniform
from renaissance.data.sampler import Draw, EvalBatches, Pool, TrainSteps, permuted


def order(num_samples: int, epoch: int, seed: int = 3) -> list[int]:
    places = np.arange(num_samples)
    return permuted(seed, np.full(num_samples, epoch), places, num_samples).tolist()


def steps(rank: int, world_size: int, first_step: int = 0, batch_size: int = 12) -> list[list[Draw]]:
    return list(TrainSteps(Pool(29), batch_size, 2, rank, world_size, seed=5, first_step=first_step, last_step=9))


@pytest.mark.parametrize("num_samples", [1, 2, 3, 5, 15, 16, 17, 1000, 4097])
def test_each_epoch_is_a_permutation(num_samples):
    for epoch in (0, 1):
        assert sorted(order(num_samples, epoch)) == list(range(num_samples))


def test_permutations_differ_between_epochs_and_seeds_and_look_random():
    orders = [order(1000, 0), order(1000, 1), order(1000, 0, seed=4)]
    # Ranks of independent permutations correlate by about 1/sqrt(1000) = .032; the order itself must not show either.
    assert np.abs(np.corrcoef([range(1000), *orders])[np.triu_indices(4, 1)]).max() < 0.13
    steps_taken = np.abs(np.diff(orders[0]))  # of a random permutation of N: N/3 on average
    assert 300 < steps_taken.mean() < 367


@pytest.mark.parametrize("num_samples", [5, 11])
def test_every_place_is_equally_likely_to_hold_every_sample(num_samples):
    epochs = 4000
    counts = np.zeros((num_samples, num_samples))
    places = np.tile(np.arange(num_samples), epochs)
    np.add.at(counts, (places, permuted(3, np.repeat(np.arange(epochs), num_samples), places, num_samples)), 1)
    expected = epochs / num_samples
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = (num_samples - 1) ** 2
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)


def test_a_billion_samples_need_no_array():
    draws = TrainSteps(Pool(1_000_000_007), 1024, 32, 1, 2, seed=0, first_step=0, last_step=10**9).draws(999_999_999)
    assert len({draw.id for draw in draws}) == 512
    assert {draw.epoch for draw in draws} == {1023}
    assert all(0 <= draw.id < 1_000_000_007 for draw in draws)


def test_the_stream_is_the_epochs_one_after_the_other():
    stream = [(draw.epoch, draw.id) for step in steps(0, 1) for draw in step]
    expected = [(epoch, id) for epoch in range(4) for id in order(29, epoch, seed=5)]
    assert stream == expected[: 9 * 12]
    assert [{draw.step for draw in step} for step in steps(0, 1, first_step=4)][:2] == [{4}, {5}]
    assert {draw.epoch for draw in steps(0, 1)[2]} == {0, 1}  # positions 24..35 of epochs of 29


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_processes_share_each_step_in_contiguous_blocks(world_size):
    shares = zip(*(steps(rank, world_size) for rank in range(world_size)), strict=True)
    assert [sum(share, []) for share in shares] == steps(0, 1)


def test_a_resumed_run_continues_the_stream():
    assert steps(1, 2, first_step=4) == steps(1, 2)[4:]
    assert len(TrainSteps(Pool(29), 12, 2, 0, 1, seed=5, first_step=4, last_step=9)) == 5


def test_a_first_stage_shows_its_own_samples_and_then_the_stream_is_as_without():
    def stream(rank: int = 0, world_size: int = 1, first_step: int = 0) -> list[list[Draw]]:
        pool = Pool(29, 3, (range(29, 34), range(29, 29), range(5, 9)))
        return list(TrainSteps(pool, 12, 2, rank, world_size, 5, first_step, 9))

    assert stream()[3:] == steps(0, 1)[3:]
    shown = [(draw.epoch, draw.id) for step in stream()[:3] for draw in step]
    easy = [29, 30, 31, 32, 33, 5, 6, 7, 8]
    assert shown == [(epoch, easy[place]) for epoch in range(4) for place in order(9, epoch, seed=5)]
    assert stream(1, 2, first_step=2) == stream(1, 2)[2:]
    assert [sum(share, []) for share in zip(stream(0, 2), stream(1, 2), strict=True)] == stream()


def test_impossible_streams_are_refused():
    with pytest.raises(ValueError, match="13 is no multiple of 2 x 3"):
        TrainSteps(Pool(29), 13, 2, 0, 3, seed=5, first_step=0, last_step=9)


@pytest.mark.parametrize("num_samples", [1, 8, 29, 32])
@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_evaluation_takes_every_sample_once_in_the_same_batches(num_samples, world_size):
    ranks = [list(EvalBatches(num_samples, 4, rank, world_size)) for rank in range(world_size)]
    assert [len(EvalBatches(num_samples, 4, rank, world_size)) for rank in range(world_size)] == list(map(len, ranks))
    assert all(rank and (all(rank) or rank == [[]]) for rank in ranks)  # a process without a batch has an empty one
    batches = sorted(batch for rank in ranks for batch in rank if batch)
    assert batches == list(EvalBatches(num_samples, 4, 0, 1))
    assert [draw for batch in batches for draw in batch] == [Draw(0, id) for id in range(num_samples)]


def splitmix64(state: int) -> int:
    """Vigna's reference, http://prng.di.unimi.it/splitmix64.c, in Python integers."""
    mask = (1 << 64) - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_mix_is_the_published_splitmix64():
    golden = np.array([0x9E3779B97F4A7C15], dtype=np.uint64)
    assert mix(golden)[0] == splitmix64(0) == 0xE220A8397B1DCDAF


def test_random_numbers_depend_on_nothing_but_their_four_facts():
    base = uniform(1, [0, 0, 2], [5, 6, 5], "x", 4)
    assert np.array_equal(uniform(1, [2], [5], "x", 9)[0, :4], base[2])
    others = [uniform(2, [0], [5], "x", 4), uniform(1, [1], [5], "x", 4), uniform(1, [0], [5], "y", 4), base[1:2]]
    assert all(not np.isin(other, base[0]).any() for other in others)
    assert 0 <= torch_seed(-7, 3, 2**40, "x") < 2**63


def test_random_bits_are_balanced_and_uncorrelated_between_neighbours():
    words = bits(0, np.zeros(20_000, dtype=int), np.arange(20_000), "balance", 2)
    digits = np.unpackbits(words.view(np.uint8).reshape(-1, 16), axis=1).astype(float)
    assert np.abs(digits.mean(0) - 0.5).max() < 5 * 0.5 / np.sqrt(20_000)
    neighbours = (digits[1:] * 2 - 1) * (digits[:-1] * 2 - 1)
    assert np.abs(neighbours.mean(0)).max() < 5 / np.sqrt(20_000)
