"""The loaders, with and without workers."""

import pickle
import resource
import threading

import numpy as np
import pytest
import torch
from pair_stub import PairStub
from tokenizers_of_many_kinds import CAPTIONS, tokenizer_of

from renaissance.core.errors import UserError
from renaissance.data.collate import Collate, MicroBatch, Source
from renaissance.data.loader import StepLoader, _kill_all
from renaissance.data.masking import MlmMasker
from renaissance.data.negatives import FalseImages
from renaissance.data.sampler import EvalBatches, Pool, TrainSteps
from renaissance.data.text import vocabulary
from renaissance.data.transforms import make_transform

PAIRS = CAPTIONS[:72]
TOKENIZER = tokenizer_of("word_piece")


def collate(per_gpu_batchsize=4, draw_false_image=0, broken=None) -> Collate:
    target_builders = {
        "mlm": MlmMasker(vocabulary(TOKENIZER), 0.15, True, 7),
        "itm": FalseImages(7, 4, draw_false_image),
    }
    source = Source(PairStub(PAIRS, broken), make_transform("clip_randaug", 24, patch_size=8, seed=7))
    return Collate(TOKENIZER, 20, per_gpu_batchsize, target_builders, source)


def steps(first_step=0, rank=0, world_size=1) -> TrainSteps:
    # 72 pairs and steps of 16: the fifth step crosses into the second epoch
    return TrainSteps(Pool(len(PAIRS)), 16, 4, rank, world_size, seed=7, first_step=first_step, last_step=6)


def flat(value) -> list:
    """Every tensor, array and None in a nest of lists, tuples and dictionaries, as plain lists with their shapes."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return [(tuple(value.shape), value.dtype, value.tolist())]
    if isinstance(value, dict):
        return [value.keys(), *(leaf for each in value.values() for leaf in flat(each))]
    return [leaf for each in value for leaf in flat(each)] if isinstance(value, (list, tuple)) else [value]


@pytest.mark.parametrize("draw_false_image", [0, 1])
def test_the_number_of_workers_changes_nothing(draw_false_image):
    loaders = [StepLoader(steps(), collate(4, draw_false_image), workers, pin_memory=False) for workers in (0, 2)]
    alone, together = map(list, loaders)
    assert len(loaders[0]) == len(alone) == 6 and [len(step) for step in alone] == [4] * 6
    assert flat(alone) == flat(together)
    again = list(loaders[1])  # the workers persist
    assert flat(again) == flat(alone)


def test_a_loader_that_is_passed_over_often_leaves_no_threads():
    before = threading.active_count()
    loader = StepLoader(EvalBatches(4, 4, 0, 1), collate(), 1, pin_memory=False)
    for _ in range(4):
        list(loader)
    assert threading.active_count() <= before + 1  # the thread that feeds the workers
    items = loader._iterator
    loader.kill()
    torch._C._set_worker_pids(id(items), (1,))  # refused where torch still takes them for an iterator's own
    torch._C._remove_worker_pids(id(items))


def test_the_number_of_processes_changes_nothing():
    alone = list(StepLoader(steps(), collate(), 0, pin_memory=False))
    ranks = [list(StepLoader(steps(0, rank, 2), collate(), 0, pin_memory=False)) for rank in range(2)]
    assert flat([first + second for first, second in zip(*ranks, strict=True)]) == flat(alone)


def test_the_size_of_the_micro_batch_changes_no_sample():
    small = [batch for step in StepLoader(steps(), collate(4), 0, pin_memory=False) for batch in step]
    large = [batch for step in StepLoader(steps(), collate(8), 0, pin_memory=False) for batch in step]
    for which in (lambda batch: batch.ids, lambda batch: batch.targets["itm"].labels):
        assert torch.equal(torch.cat(list(map(which, small))), torch.cat(list(map(which, large))))
    hidden = [
        [row[row != -100].tolist() for batch in each for row in batch.targets["mlm"].labels] for each in (small, large)
    ]
    assert hidden[0] == hidden[1]


def test_a_resumed_run_sees_what_it_would_have_seen():
    whole = list(StepLoader(steps(), collate(), 0, pin_memory=False))
    assert flat(list(StepLoader(steps(first_step=4), collate(), 2, pin_memory=False))) == flat(whole[4:])


def test_evaluation_sees_every_sample_once_in_single_batches():
    items = list(StepLoader(EvalBatches(len(PAIRS), 20, 0, 1), collate(20), 0, pin_memory=False))
    assert [len(item) for item in items] == [1] * 4
    assert torch.cat([item[0].ids for item in items]).tolist() == list(range(72))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_process_without_an_evaluation_batch_gets_one_empty_step(workers):
    assert list(StepLoader(EvalBatches(len(PAIRS), 72, 1, 2), collate(72), workers, pin_memory=False)) == [[]]


def test_steps_of_many_micro_batches_do_not_use_up_the_open_files():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))  # what 1024 are for a real run
    try:
        sampler = TrainSteps(Pool(len(PAIRS)), 72, 1, 0, 1, seed=7, first_step=0, last_step=3)
        loader = StepLoader(sampler, collate(1), 1, pin_memory=False)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 256  # else what follows waits for ever
        kept = list(loader)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [len(step) for step in kept] == [72] * 3


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_picture_is_one_sentence_that_names_file_and_row(workers):
    with pytest.raises(UserError) as caught:
        list(StepLoader(steps(), collate(broken=31), workers, pin_memory=False))
    _kill_all()
    assert str(caught.value).startswith("The image of stub.arrow row 15 cannot be decoded")
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_defects_of_the_program_keep_their_traceback():
    broken = collate()
    broken.target_builders["mlm"] = None
    with pytest.raises(TypeError):
        next(iter(StepLoader(steps(), broken, 1, pin_memory=False)))
    _kill_all()


def ten_megabytes(micro: MicroBatch) -> bytes:
    return bytes(10 << 20)


def test_half_a_message_of_a_killed_worker_is_a_sentence(monkeypatch: pytest.MonkeyPatch):
    """The rest would never come, and who reads it would wait for ever."""
    monkeypatch.setattr("renaissance.data.loader._LOOK", 0.2)
    large = collate()
    large.target_builders["mlm"] = ten_megabytes
    loader = StepLoader(steps(), large, 1, pin_memory=False)
    items = loader._start()
    assert items._worker_result_queue._reader.poll(60)  # a pipe holds 64 kB, so the worker is still writing
    items._workers[0].kill()
    with pytest.raises(UserError, match="num_workers=1: a loader process has died"):
        list(loader)
    loader.kill()


def test_what_a_worker_needs_can_be_sent_to_it():
    sent = pickle.loads(pickle.dumps(collate(4, 1)))
    alone = next(iter(StepLoader(steps(), collate(4, 1), 0, pin_memory=False)))
    assert flat(next(iter(StepLoader(steps(), sent, 0, pin_memory=False)))) == flat(alone)
