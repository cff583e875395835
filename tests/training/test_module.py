"""The training step: one gradient however a batch is cut, one pass through each tower, weights and clipping."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer

from renaissance.core.types import Batch
from renaissance.data.collate import Collate, Source
from renaissance.data.sampler import Pool, TrainSteps
from renaissance.data.transforms import make_transform
from renaissance.settings.declared import defaults
from renaissance.settings.resolver import ConfigResolver
from renaissance.tasks import Encodings
from renaissance.training import devices
from renaissance.training.assembly import Built, build
from renaissance.training.loading import RunData, read_data
from renaissance.training.module import VisionLanguageModule
from renaissance.training.optim import learning_rate, parameter_groups
from renaissance.training.resolution import Resolved
from renaissance.training.train import prepare_run
from renaissance.training.unused_parameters import freeze_unused_parameters
from small_run import NO_DROPOUT, SMALL, values_of, write_coco_vg

PAIRS = 16
STEPS = 4


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory, hub_cache: Path) -> Path:
    return write_coco_vg(tmp_path_factory.mktemp("arrow"))


class Bench:
    """A model and its data, to be trained on batches cut in any way.

    Args:
        data_root: of the arrow files. words: further `key=value` settings.
    """

    def __init__(self, data_root: Path, *words: str):
        sizes = (
            f"batch_size={PAIRS}",
            f"max_steps={STEPS}",
            "negative_group=4",
            "warmup_steps=1",
            "learning_rate=1e-3",
        )
        task = "loss_names={'mlm': 1, 'itm': 1}"
        given = values_of(*SMALL, *NO_DROPOUT, f"data_root={data_root}", task, *sizes, *words)
        values = {**defaults(), **given}
        self.resolved: Resolved = prepare_run(ConfigResolver(values, dict.fromkeys(given, "given")))[1]
        self.data: RunData = read_data(self.resolved)

    def build(self) -> Built:
        """The model as the run starts with it; the same each time."""
        built = build(self.resolved)
        freeze_unused_parameters(built, self.resolved, self.data.target_builders)
        return built

    def batches(self, step: int, cuts: Sequence[int]) -> list[Batch]:
        """The pairs of a step in micro-batches of the given sizes."""
        model, pairs = self.resolved.settings.model, self.data.samples["train"]
        transform = make_transform("imagenet", model.image_size, patch_size=model.patch_size, seed=0)
        source = Source(pairs, transform)
        draws = TrainSteps(Pool(len(pairs)), PAIRS, PAIRS, 0, 1, 0, 0, STEPS).draws(step)
        batches, start = [], 0
        for size in cuts:
            collate = Collate(self.resolved.tokenizer, model.max_text_len, size, self.data.target_builders, source)
            batches += collate([source.example(draw) for draw in draws[start : start + size]])
            start += size
        assert start == PAIRS
        return batches

    def fit(self, cuts: Sequence[int], steps: int = STEPS) -> tuple[Built, list[dict[str, float]]]:
        """Trains, and returns the model with the mean losses of each step."""
        built = self.build()
        module = VisionLanguageModule(built.model, built.heads, self.resolved.settings, steps)
        items = [self.batches(step, cuts) for step in range(steps)]
        loader = torch.utils.data.DataLoader(items, batch_size=None, collate_fn=lambda item: item)
        losses = Losses()
        with devices.ignore_known_warnings():
            trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[losses],
                              limit_val_batches=0, enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
            warnings.filterwarnings("ignore", message="The 'train_dataloader' does not have many workers")
            trainer.fit(module, loader, [])
        return built, losses.found


class Losses(Callback):
    def __init__(self):
        self.found: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, module, outputs, *_: Any) -> None:
        self.found += [report.losses for report in module.finished_steps()]


def parameters(built: Built) -> dict[str, torch.Tensor]:
    """Every trainable parameter but the biases of keys: a softmax cannot see them, their gradient is rounding."""
    both = {**dict(built.model.named_parameters()), **dict(built.heads.named_parameters())}
    found = {
        name: p.detach()
        for name, p in both.items()
        if p.requires_grad and not name.endswith(("key.bias", "k_proj.bias"))
    }
    for name in found:
        if name.endswith("qkv.bias"):
            query, _, value = found[name].chunk(3)
            found[name] = torch.cat([query, value])
    return found


def farthest(first: Built, second: Built) -> float:
    ours, theirs = parameters(first), parameters(second)
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def plain_training(bench: Bench, steps: int = STEPS) -> tuple[Built, list[dict[str, float]]]:
    """The same training as a page of PyTorch: one batch a step, each loss a mean over it."""
    built, optim = bench.build(), bench.resolved.settings.optim
    groups = parameter_groups(built.model, built.heads, optim)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    built.model.train()
    found = []
    for step in range(steps):
        [batch] = bench.batches(step, [PAIRS])
        encodings = Encodings(built.model, batch)
        losses = {}
        for name, task in built.heads.items():
            out = task(encodings, batch.targets[name])
            losses[name] = torch.nn.functional.cross_entropy(out.logits, out.labels)
        for group, made in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] = made["multiplier"] * learning_rate(step, steps, optim)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        found.append({name: float(loss.detach()) for name, loss in losses.items()})
    return built, found


def test_a_batch_may_be_cut_in_any_way(data_root):
    bench = Bench(data_root)
    reference, expected = plain_training(bench)
    for cuts in ([16], [8, 8], [4, 4, 4, 4], [8, 4, 4]):
        built, losses = bench.fit(cuts)
        for found, wanted in zip(losses, expected, strict=True):
            assert found == pytest.approx(wanted, abs=1e-5), cuts
        assert farthest(built, reference) < 1e-5, cuts
    # The numbers of masked pieces differ between micro-batches, so means of means would be another training.
    masked = [int((batch.targets["mlm"].labels >= 0).sum()) for batch in bench.batches(0, [8, 8])]
    assert masked[0] != masked[1]
    assert farthest(reference, bench.build()) > 1e-3


def test_each_tower_runs_once_a_micro_batch_but_for_the_masked_text(data_root):
    bench = Bench(data_root)
    calls = {"image_tower": 0, "text_tower": 0}
    build_once = bench.build

    def counted() -> Built:
        built = build_once()
        for name in calls:
            getattr(built.model, name).register_forward_hook(
                lambda *_, name=name: calls.update({name: calls[name] + 1})
            )
        return built

    bench.build = counted
    bench.fit([8, 8], steps=1)
    # Two micro-batches; MLM reads masked texts, ITM whole ones, both the same images.
    assert calls == {"image_tower": 2, "text_tower": 4}


SGD = (
    "optim_type=sgd",
    "weight_decay=0",
    "warmup_steps=0",
    "lr_mult_head=1",
    "lr_mult_cross_modal=1",
    "learning_rate=0.5",
)


def moved(bench: Bench) -> dict[str, torch.Tensor]:
    """What one step of SGD adds to each parameter, divided by the learning rate: minus the gradient."""
    before = {name: p.clone() for name, p in parameters(bench.build()).items()}
    after, _ = bench.fit([8, 8], steps=1)
    return {name: (p - before[name]) / 0.5 for name, p in parameters(after).items()}


def test_loss_weights_scale_the_gradient(data_root):
    once = moved(Bench(data_root, *SGD))
    mlm, itm = (
        moved(Bench(data_root, *SGD, f"loss_names={{'mlm': {m}, 'itm': {i}}}")) for m, i in ((1, 1e-12), (1e-12, 1))
    )
    twice = moved(Bench(data_root, *SGD, "loss_names={'mlm': 2, 'itm': 0.5}"))
    name = "image_projection.weight"
    torch.testing.assert_close(once[name], mlm[name] + itm[name], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(twice[name], 2 * mlm[name] + 0.5 * itm[name], atol=1e-6, rtol=1e-4)
    assert mlm[name].abs().max() > 1e-4 and itm[name].abs().max() > 1e-4


def test_clipping_bounds_the_norm_of_the_whole_gradient(data_root):
    def norm(gradient: dict[str, torch.Tensor]) -> float:
        return float(torch.stack([part.norm() for part in gradient.values()]).norm())

    free = moved(Bench(data_root, *SGD))
    clipped = moved(Bench(data_root, *SGD, "gradient_clip_val=0.01"))
    assert norm(free) > 0.1
    assert norm(clipped) == pytest.approx(0.01, rel=1e-3)
    name = "image_projection.weight"
    direction = torch.nn.functional.cosine_similarity(free[name].flatten(), clipped[name].flatten(), dim=0)
    assert float(direction) == pytest.approx(1, abs=1e-3)


def test_a_frozen_tower_stays_as_it_is_without_dropout(data_root):
    bench = Bench(data_root, "freeze_image_encoder=True")
    before = copy.deepcopy(bench.build().model.image_tower.state_dict())
    built = bench.build()
    built.model.train()
    assert not any(module.training for module in built.model.image_tower.modules())
    assert all(module.training for module in built.model.text_tower.modules())
    after, _ = bench.fit([16], steps=2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.model.image_tower.state_dict().items())
