"""The largest micro-batch: the search, what a try shows the model, and the command on a small run."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from conftest import ROOT
from renaissance.cli.main import main
from renaissance.core.errors import UserError
from renaissance.core.types import Example
from renaissance.data.transforms import aspect_size
from renaissance.training.loading import Loaders
from renaissance.training.train import prepare_training
from renaissance.training.tuning import batches, trial
from renaissance.training.tuning.batches import Search, largest_fitting
from renaissance.training.tuning.trial import GIB, HeaviestSamples, Trial, in_own_process, make_heaviest, measure
from small_run import SMALL, resolver, values_of, write_coco_vg

RUN = ("find_batch", "with", "task_mlm_itm", "max_steps=30", *SMALL)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    write_coco_vg(tmp_path / "data" / "arrow")
    return tmp_path


@pytest.mark.parametrize("most", [0, 1, 2, 12, 96, 200])
def test_bisection_finds_the_largest_in_few_tries(most):
    sizes, tried = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 96], []
    found = largest_fitting(sizes, lambda size: tried.append(size) or size <= most)
    assert found == max((size for size in sizes if size <= most), default=None)
    assert len(tried) == len({*tried}) <= 4


def search(**given) -> Search:
    return Search(resolver(**given), 3, None)


def test_only_sizes_that_a_run_may_have_are_tried(monkeypatch):
    monkeypatch.setattr(batches, "start_fork_server", lambda *_: None)
    assert search(batch_size=24).sizes() == [2, 3, 4, 6, 8, 12, 24]  # ITM exchanges images among two samples at least
    assert search(batch_size=24, per_gpu_batchsize=8, negative_group=4).sizes() == [4, 8, 12, 24]
    assert search(batch_size=6, draw_false_image=1).sizes() == [1, 2, 3, 6]
    assert search(batch_size=24, per_gpu_batchsize=8, eval_batch_size=8).sizes() == [
        2,
        4,
        8,
    ]  # the group, which is the size, divides it
    values, sources = search(batch_size=24).words_with(3)
    assert (values["per_gpu_batchsize"], values["batch_size"], sources["per_gpu_batchsize"]) == (3, 24, "given")


def test_a_limit_is_of_what_is_free(monkeypatch):
    monkeypatch.setattr(batches, "start_fork_server", lambda *_: None)
    monkeypatch.setattr(batches.devices, "has_gpu", lambda _: False)
    monkeypatch.setattr(batches, "free_memory", lambda: 10 * GIB)
    assert search().watched == 9 * GIB and Search(resolver(), 3, 2.5).watched == 2.5 * GIB
    with pytest.raises(UserError, match=r"memory_limit=11: this machine has 10.0 GiB free; give as much or less\."):
        Search(resolver(), 3, 11)
    monkeypatch.setattr(batches, "free_memory", lambda: None)
    with pytest.raises(UserError, match="needs a GPU or Linux"):
        search()


class Pairs:
    """Samples of one or more images, some with boxes."""

    def __init__(self, examples: list[Example]):
        self.examples, self.labelled = examples, True

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    def text(self, index: int) -> str:
        return self.examples[index].text


def test_texts_are_as_long_as_the_model_reads():
    heavy = HeaviestSamples(
        Pairs([Example(0, (b"",), "a red dog"), Example(1, (), "x y", text_pair="z"), Example(2, (), "")]), 40
    )
    assert len(heavy) == 3 and heavy.labelled and heavy.examples
    assert (
        len(heavy[0].text.split()) >= 40
        and {*heavy[0].text.split()} == {"a", "red", "dog"}
        and heavy[0].text_pair is None
    )
    assert min(len(heavy[1].text.split()), len(heavy[1].text_pair.split()), len(heavy.text(0).split())) >= 40
    assert heavy[2].text == ""


def test_samples_with_the_most_boxes_are_shown():
    boxes = [((0, 0, 1, 1),) * (1 + index % 50) for index in range(100)]
    heavy = HeaviestSamples(Pairs([Example(i, (b"",), "a", boxes=each) for i, each in enumerate(boxes)]), 4)
    assert (
        min(len(heavy[index].boxes) for index in range(100)) == 43
        and len({heavy[index].id for index in range(100)}) == 16
    )


def test_padded_images_are_of_extreme_shapes():
    heavy = HeaviestSamples(Pairs([Example(i, (b"",), "a", boxes=[(0, 0, 1, 1)] * 3) for i in range(2)]), 4, 32)
    wide, high = heavy[0], heavy[1]
    assert [image.shape for image in wide.images + high.images] == [(3, 32, 53)] * 3 + [(3, 53, 32)] * 3
    assert wide.boxes is None


def test_a_micro_batch_is_the_heaviest_that_a_run_can_meet(work):
    words = {"max_text_len": 30, "batch_size": 8, "per_gpu_batchsize": 8}
    prepared = prepare_training(resolver(**values_of(*SMALL) | words | {"draw_false_image": 1}))
    plain = loaded(prepared)
    make_heaviest(prepared)
    heavy = loaded(prepared)
    assert (
        heavy.text.input_ids.shape == (8, 30) and heavy.text.attention_mask.all() and plain.text.input_ids.shape[1] < 30
    )
    # Each sample has a false image, drawn beside its own: the most passes through image tower and fusion.
    assert (heavy.targets["itm"].image_index != torch.arange(8)).all()
    assert len(heavy.images.pixels) == 16 > len(plain.images.pixels)


def test_images_that_keep_their_aspect_are_padded_the_most(work):
    one = {"encoder": "facebook/dino-vits16", "image_size": 32, "train_transform_keys": ["pixelbert"], "num_workers": 0}
    prepared = prepare_training(resolver(batch_size=16, **one))
    make_heaviest(prepared)
    assert loaded(prepared).images.pixels.shape == (16, 3, 48, 48) and aspect_size(100, 10_000, 32, 16)[1] == 48


def loaded(prepared):
    """The first micro-batch of the first step."""
    trainer = SimpleNamespace(global_rank=0, world_size=1, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    loaders = Loaders(prepared.resolved, prepared.data, None, (0, 1))
    loaders.trainer = trainer
    return next(iter(loaders.train_dataloader()))[0]


@pytest.mark.parametrize(("limit", "had"), [(None, 6 * GIB), (2.0, 2 * GIB)])
def test_a_gpu_is_measured_by_its_allocator(limit, had, work, monkeypatch):
    fractions, told = [], []
    monkeypatch.setattr(trial, "on_gpu", lambda _: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (6 * GIB, 8 * GIB))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    monkeypatch.setattr(trial.time, "perf_counter", iter([0.0, 2.0, 4.0]).__next__)
    monkeypatch.setattr(
        trial, "take_steps", lambda _, steps, *__, **___: [told.append(steps.told(None)) for _ in range(3)]
    )
    assert measure(resolver(**values_of(*SMALL)), 3, limit) == Trial(5, 2 * 8 / 4, had)
    assert fractions == ([] if limit is None else [0.25]) and told == [True] * 3
    with pytest.raises(UserError, match=r"memory_limit=7: this GPU has 6.0 GiB free"):
        measure(resolver(**values_of(*SMALL)), 3, 7)


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), None),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: you tried"),
            None,
        ),
        (MemoryError(), None),
        (UserError("The data are gone."), "The data are gone."),
    ],
)
def test_what_does_not_fit_is_no_error(raised, said, monkeypatch):
    def fail(*_):
        raise raised

    answers = []
    monkeypatch.setattr(trial, "start_worker", lambda _: None)
    monkeypatch.setattr(trial, "leave_socket_folder", lambda: None)
    monkeypatch.setattr(trial, "measure", fail)
    says = SimpleNamespace(send=answers.append)
    given = resolver()
    in_own_process(given.raw, {}, 3, None, multiprocessing.get_start_method(), says)
    assert [each and str(each) for each in answers] == [said]
    raised = RuntimeError("a defect")
    with pytest.raises(RuntimeError, match="a defect"):
        in_own_process(given.raw, {}, 3, None, multiprocessing.get_start_method(), says)


def _take(says, mebibytes: int, status: int) -> None:
    held = bytearray(b"x") * (mebibytes << 20)
    if status:
        os.kill(os.getpid(), status)
    signal.pause() if not says else says.send(Trial(None, 1.0, None))
    del held


class _Context:
    """Starts processes that take memory, in the place of tries."""

    Pipe = staticmethod(multiprocessing.Pipe)

    def __init__(self, mebibytes: int, status: int = 0):
        self.taken = mebibytes, status

    def Process(self, target, args):  # noqa: N802
        assert target is in_own_process
        return multiprocessing.get_context("fork").Process(target=_take, args=(args[-1], *self.taken))


def test_a_try_that_takes_more_than_the_limit_is_killed(monkeypatch, capsys):
    monkeypatch.setattr(batches, "start_fork_server", lambda *_: None)
    monkeypatch.setattr(batches.devices, "has_gpu", lambda _: False)
    monkeypatch.setattr(batches, "_LOOK", 0.001)
    found = search(batch_size=8)
    found.context = _Context(50)
    base = found.fits(2) and found.tried[2].memory
    assert base > 50 << 20
    found.watched = base + (150 << 20)
    found.context = _Context(100)
    assert found.fits(4) and base + (40 << 20) < found.tried[4].memory < found.watched
    found.context = _Context(1000)
    assert not found.fits(8) and found.tried[8] is None
    found.context = _Context(1, signal.SIGKILL)  # as the system does where memory ends
    assert not found.fits(8)
    found.context = _Context(1, signal.SIGABRT)
    with pytest.raises(UserError, match="per_gpu_batchsize=8: its process has ended with status -6, as it says above"):
        found.fits(8)
    assert "per_gpu_batchsize=8: does not fit" in capsys.readouterr().err


REFUSED = [
    (
        ("num_gpus=2",),
        "num_gpus=2, num_nodes=1: find_batch measures one process; give num_gpus=1 num_nodes=1 batch_size=4,",
    ),
    (("memory_limit=0",), "memory_limit=0 is not allowed: give a number of at least 0.1"),
    (("memory_limit=900000",), "give as much or less"),
    (("steps_per_trial=1",), "steps_per_trial=1 is not allowed"),
    (("test_only=True", "load_path=x"), "test_only=True: find_batch tries the first steps of a run"),
]


@pytest.mark.parametrize(("words", "sentence"), REFUSED, ids=lambda each: str(each[0])[:30])
def test_refusals(words, sentence, work, capsys):
    assert main([*RUN, *words]) == 1
    out, err = capsys.readouterr()
    assert sentence in err and err.count("\n") == 1 and out == ""
    assert {each.name for each in work.iterdir()} == {"data"}


def test_the_command_prints_what_each_size_takes(run_cli, work):
    done = run_cli(*RUN, "batch_size=4")
    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "per_gpu_batchsize=4" and "it is all of batch_size=4" in lines[-2]
    assert [line.split()[0] for line in lines[:-2]] == ["per_gpu_batchsize", "2", "4"]
    assert all(0.2 < float(line.split()[1]) < 5 and float(line.split()[3]) > 0 for line in lines[1:-2])
    assert {each.name for each in work.iterdir()} == {"data"} and "Traceback" not in done.stderr + done.stdout


@pytest.mark.slow
def test_what_does_not_fit_or_is_refused_ends_in_a_sentence(run_cli, work):
    done = run_cli(*RUN, "batch_size=4", "memory_limit=0.2")
    assert done.code == 1 and done.stderr.splitlines()[-1].startswith(
        "error: per_gpu_batchsize=2, the smallest that these settings"
    )
    assert done.stdout.count("does not fit") == 1
    done = run_cli(*RUN, "data_root=nowhere")
    assert done.code == 1 and "data_root='nowhere' cannot be read" in done.stderr and done.stderr.count("\n") == 1
    assert not (ROOT / "result").exists()
