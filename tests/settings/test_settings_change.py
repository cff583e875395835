"""Every key of config.py does something: changing it changes what is built, read, computed or written.

`CHANGES` has a row for each key: a value other than the base's, and how its effect is seen, read off the thing itself
(a module's shapes, a batch, an optimizer's groups, a file), not off the settings.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock
from unittest.mock import ANY

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

import small_run
from data.prepare.raw_images import CLASSES
from renaissance.core.errors import UserError
from renaissance.core.types import IGNORED, Batch
from renaissance.demo.raw import write_tokenizer
from renaissance.models import backbones
from renaissance.runs import checkpoint
from renaissance.runs.report import RunFolder
from renaissance.runs.start import find_start, open_folder
from renaissance.runs.stored import TrainingState
from renaissance.settings.declared import defaults
from renaissance.settings.resolver import ConfigResolver
from renaissance.settings.sections import Settings
from renaissance.tasks import Encodings
from renaissance.training import devices, frozen_tokens, image_inputs, loading, train
from renaissance.training.assembly import Built, build, build_on_meta, load_weights
from renaissance.training.checkpointing import checkpoint_content
from renaissance.training.final_evaluation import blind_run_of
from renaissance.training.module import VisionLanguageModule
from renaissance.training.optim import set_learning_rate, validation_interval
from renaissance.training.resolution import Resolved, resolve
from small_tasks import TASKS

DINO, VIT, DEIT = "facebook/dino-vits16", "google/vit-base-patch16-224", "facebook/deit-tiny-patch16-224"
ELECTRA, ELECTRA_BASE, BERT = (
    "google/electra-small-discriminator",
    "google/electra-base-discriminator",
    "google-bert/bert-base-uncased",
)
DEFAULTS = defaults()
TWO = {
    "loss_names": {"mlm": 1, "itm": 1}, "max_steps": 4, "datasets": ["coco"], "data_root": "arrow", "log_dir": "runs",
    "batch_size": 8, "per_gpu_batchsize": 4, "num_workers": 0, "image_size": 32,
}  # fmt: skip
FUSION = small_run.values_of(*small_run.FUSION)
ONE = {"encoder": DINO}
IRTR = {"loss_names": {"irtr": 1}, "draw_false_text": 1}
VQA = {"loss_names": {"vqa": 1}, "datasets": ["vqa"], "data_root": "vqa"}
GLUE = {"loss_names": {"glue": 1}, "datasets": ["sst2"]}
IMAGES = {"loss_names": {"images": 1}, "datasets": ["images"], "data_root": "images"}
ZERO = IMAGES | {"loss_names": {"zeroshot_images": 1}, "test_only": True, "load_path": "other.ckpt"}
KNN = ZERO | {"loss_names": {"knn": 1}}
OWN = {"datasets": ["long"]}
HOLES = {"datasets": ["sbu"], "data_root": "holes"}
MANUAL_ONE = ONE | {"encoder_manual_configuration": True}
MANUAL_IMAGE = {"image_encoder_manual_configuration": True}
MANUAL_TEXT = {"text_encoder_manual_configuration": True}


FROZEN = {"freeze_image_encoder": True}
CACHED = {**FROZEN, "cache_frozen": True}


class Trial:
    """A command, carried as far as somebody looks."""

    def __init__(self, given: dict[str, Any]):
        given = TWO | ({} if given.get("encoder") else FUSION) | given
        self.resolver = ConfigResolver(DEFAULTS | given, dict.fromkeys(given, "given"))

    @cached_property
    def resolved(self) -> Resolved:
        path = self.resolver["load_path"] or self.resolver["resume_from"]
        return resolve(self.resolver, checkpoint.read(path) if path else None)

    @property
    def settings(self) -> Settings:
        return self.resolved.settings

    @cached_property
    def shape(self) -> Built:
        return build_on_meta(self.resolved)

    @cached_property
    def built(self) -> Built:
        return build(self.resolved)

    @property
    def model(self) -> nn.Module:
        return self.shape.model

    @cached_property
    def data(self) -> loading.RunData:
        return loading.read_data(self.resolved)

    @cached_property
    def trainer(self) -> Any:
        return train.make_trainer(
            self.settings,
            Callback(),
            validation_interval(self.settings.optim, self.data.epoch_size, self.settings.data.batch_size),
            validates=True,
        )

    @cached_property
    def loaders(self) -> loading.Loaders:
        loaders = loading.Loaders(self.resolved, self.data, RunFolder(None), (0, 1))
        loaders.trainer = self.trainer
        self.trainer.strategy._lightning_module = self.module
        return loaders

    @cached_property
    def step(self) -> list[Batch]:
        return next(iter(self.loaders.train_dataloader()))

    @cached_property
    def evaluated(self) -> list[Batch]:
        return next(iter(self.loaders.val_dataloader()))

    @property
    def steps(self) -> int:
        return train._steps(self.settings, self.data.epoch_size)

    @cached_property
    def module(self) -> VisionLanguageModule:
        return VisionLanguageModule(self.built.model, self.built.heads, self.settings, 4)

    @cached_property
    def folder(self) -> Path:
        return train.run(self.resolver).path

    def curve(self) -> list[float]:
        return [self.module.learning_rate_of(step) for step in range(5)]

    def rate_of(self, role: str) -> float:
        """The learning rate of a role's parameters relative to that of towers."""
        optimizer = self.module.configure_optimizers()
        set_learning_rate(optimizer, 1.0)
        return next(group["lr"] for group in optimizer.param_groups if group["name"].startswith(role))

    def targets(self, task: str) -> list[Any]:
        return [batch.targets[task] for batch in self.step]

    def masked(self) -> list[list[bool]]:
        return [(row != IGNORED).tolist() for target in self.targets("mlm") for row in target.labels]


def attributes(module: nn.Module, *names: str) -> set[Any]:
    """The values of attributes over all modules that have them."""
    return {
        getattr(each, name)
        for each in module.modules()
        for name in names
        if isinstance(getattr(each, name, None), int | float)
    }


def heads(module: nn.Module) -> set[int]:
    return attributes(module, "num_attention_heads", "num_heads", "heads")


def drops(module: nn.Module) -> set[float]:
    return {float(each.p) for each in module.modules() if isinstance(each, nn.Dropout)} | attributes(
        module, "drop_rate"
    )


def layers(module: nn.Module) -> int:
    return sum(type(each).__name__.endswith("Layer") for each in module.modules())


def widest(module: nn.Module) -> int:
    return max(each.out_features for each in module.modules() if isinstance(each, nn.Linear))


def narrowest_embedding(module: nn.Module) -> int:
    return min(each.embedding_dim for each in module.modules() if isinstance(each, nn.Embedding))


def trainable(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def weight_of(module: nn.Module) -> float:
    """A number that tells one set of weights from another."""
    return round(sum(float(parameter.detach().abs().sum()) for parameter in module.parameters()), 2)


def refusal(trial: Callable[[], Any]) -> str | None:
    try:
        trial()
    except UserError as error:
        return str(error)
    return None


def run_folder(trial: Trial) -> tuple[str, ...]:
    folder, _, _ = open_folder(find_start(trial.resolver), trial.settings)
    return folder.path.parts[:-1]


def saved_steps(trial: Trial) -> int:
    """How many checkpoints of its way a run leaves."""
    return len(list((trial.folder / "checkpoints").glob("step_*.ckpt")))


def loaded(trial: Trial) -> float:
    load_weights(trial.built, trial.resolved)
    return weight_of(trial.built.model.text_projection)


def asked_locally(trial: Trial) -> set[bool]:
    """How the files of configurations and image preparation are asked for; weights are only looked for here."""
    real = backbones.hub.cached_file
    with mock.patch.object(backbones.hub, "cached_file", side_effect=real) as ask:
        assert trial.resolved
    return {call.kwargs["local_files_only"] for call in ask.call_args_list if call.args[1].endswith("config.json")}


def runs_code(trial: Trial) -> bool:
    trusting = mock.patch.object(backbones.hub, "trusted_config", side_effect=UserError("it would run"))
    own = {"model_type": "theirs", "auto_map": {"AutoModel": "theirs.Model"}}
    with mock.patch.object(backbones.hub, "read_json", return_value=own), trusting:
        return "it would run" in (refusal(lambda: trial.resolved) or "")


def results(trial: Trial) -> set[str]:
    return set(json.loads((trial.folder / "results.json").read_text(encoding="utf-8")))


def neighbours(trial: Trial) -> str:
    details = json.loads((trial.folder / "results_details.json").read_text(encoding="utf-8"))
    return details["test"]["knn"]["accuracy"]["method"].partition(" by ")[0]


def clipped(trial: Trial) -> float:
    optimizer = trial.module.configure_optimizers()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    trial.module._clip(optimizer, trial.module._gradient_norm(optimizer))
    return round(float(torch.stack([parameter.grad.norm() for parameter in parameters]).norm()), 3)


def kept_bytes(trial: Trial) -> int:
    """Bytes that the forward pass of a step keeps for its backward pass."""
    kept = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    built, batch = trial.built, trial.step[0]
    built.model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        encodings = Encodings(built.model, batch)
        for name, head in built.heads.items():
            head(encodings, batch.targets[name])
    return kept


def matmul_precision(trial: Trial) -> str:
    assert trial.trainer
    return torch.get_float32_matmul_precision()


def tokens(trial: Trial) -> set[str]:
    """The folders that hold the tokens of a frozen tower."""
    trial.data.tokens = frozen_tokens.plan_tokens(trial.built, trial.resolved, trial.data)
    files = [] if trial.data.tokens is None else trial.data.tokens.files
    return {str(each.folder.parent.parent) for of_split in files for each in of_split}


class Change(NamedTuple):
    """A key's other value and its effect.

    Attributes:
        value: given instead of the base's.
        read: sees the effect.
        after: what is seen with `value`, ANY where only that it differs is known.
        base: given in both.
    """

    value: Any
    read: Callable[[Trial], Any]
    after: Any = ANY
    base: dict[str, Any] = {}


def refused(value: Any, sentence: str, **base: Any) -> Change:
    """The key must agree with somebody: another value is refused, where none is not."""
    return Change(value, lambda t: sentence in (refusal(lambda: t.resolved) or ""), True, base)


CHANGES: dict[str, Change] = {
    "exp_name": Change("other", run_folder, ("runs", "other")),
    "seed": Change(1, lambda t: [batch.ids.tolist() for batch in t.step]),
    "log_dir": Change("elsewhere", run_folder, ("elsewhere", "renaissance")),
    "load_path": Change("other.ckpt", loaded),
    "resume_from": Change("other.ckpt", lambda t: find_start(t.resolver).state.step, 3),
    "test_only": Change(True, lambda t: t.steps, 0, {"load_path": "other.ckpt"}),
    "final_test": Change(False, results, {"val"}, {"max_steps": 1}),
    "fast_dev_run": Change(2, lambda t: t.steps, 2),
    "tags": Change("[a,b]", lambda t: t.settings.run.tags, ["a", "b"]),  # test_logging.py finds them again
    "logger": Change("csv", lambda t: (t.folder / "csv").is_dir(), True, {"max_steps": 1, "final_test": False}),
    "log_every_n_steps": Change(
        1, lambda t: len(small_run.curve(t.folder, "mlm/train/loss")), 2, {"max_steps": 2, "final_test": False}
    ),
    "max_bad_steps": Change(
        1,
        lambda t: "steps in a row were skipped" in (refusal(lambda: t.folder) or ""),
        True,
        {"learning_rate": 1e38, "max_steps": 4, "final_test": False},
    ),
    "save_every_steps": Change(1, saved_steps, 3, {"max_steps": 3, "final_test": False, "keep_last": 9}),
    "save_every_minutes": Change(1e-2, lambda t: t.settings.run.save_every_minutes, 1e-2),
    "max_time": Change("0:30", lambda t: t.settings.run.max_time, "0:30"),  # test_stopping.py lets it pass
    "keep_last": Change(1, saved_steps, 1, {"max_steps": 3, "final_test": False, "save_every_steps": 1}),
    "trust_remote_code": Change(True, runs_code, True),
    "allow_download": Change(False, asked_locally, {True}),
    "plugins": Change(["lab"], lambda t: t.settings.run.plugins, ["lab"]),  # test_plugins.py imports them
    "ref_dataset": Change("refcoco", lambda t: t.resolver["datasets"], ["refcoco"]),
    "datasets": Change(["vg"], lambda t: [file.file for file in t.data.samples["train"].describe()], ["vg.arrow"]),
    "image_column": Change("other", lambda t: "needs one column 'other'" in (refusal(lambda: t.data) or ""), True, OWN),
    "caption_column": Change(
        "other", lambda t: "needs one column 'other'" in (refusal(lambda: t.data) or ""), True, OWN
    ),
    "first_datasets": Change(
        ["vg"], lambda t: {id < t.data.epoch_size for batch in t.step for id in batch.ids.tolist()}, {False}
    ),
    "first_steps": Change(2, lambda t: t.data.pool(t.settings, 4).first_steps, 2, {"first_datasets": ["vg"]}),
    "data_root": Change("fewer", lambda t: len(t.data.samples["train"]), 2 * 3),
    "allow_missing_shards": Change(
        True, lambda t: "sbu_1.arrow; complete them" in (refusal(lambda: t.data) or ""), False, HOLES
    ),
    "batch_size": Change(16, lambda t: sum(len(batch.ids) for batch in t.step), 16),
    "per_gpu_batchsize": Change(2, lambda t: [len(batch.ids) for batch in t.step], [2] * 4),
    "eval_batch_size": Change(8, lambda t: [len(batch.ids) for batch in t.evaluated], [8]),
    "eval_limit": Change(3, lambda t: [len(batch.ids) for batch in t.evaluated], [3]),
    "train_transform_keys": Change(["imagenet_randaug"], lambda t: int(t.step[0].images.pixels.long().sum())),
    "val_transform_keys": Change(["pixelbert"], lambda t: t.evaluated[0].images.sizes is not None, True, ONE),
    "patch_drop": Change(0.5, lambda t: t.step[0].images.kept.shape[1], 2, {"patch_drop": 0.25}),
    "patch_drop_until": Change(
        0.5, lambda t: image_inputs.patch_drop(t.settings, 1000).steps, 500, {"patch_drop": 0.5}
    ),
    "cache_frozen": Change(True, tokens, {"arrow/tokens"}, FROZEN),
    "cache_precision": Change(16, lambda t: tokens(t) and t.data.tokens.files[0][0].dtype, torch.float16, CACHED),
    "cache_dir": Change("kept", tokens, {"kept"}, CACHED),
    "num_workers": Change(2, lambda t: t.loaders.train_dataloader().num_workers, 2),
    "model_type": refused("one-tower", "needs encoder="),
    "pooler_type": Change("single", lambda t: t.model.pooled_size, 32),
    "tokenizer": Change(
        "words",
        lambda t: t.shape.heads["mlm"].head.decoder.out_features < 1000,
        True,
        {"random_init_text_encoder": True},
    ),
    "vocab_size": refused(100, "which has vocab_size=30522"),
    "max_text_len": Change(5, lambda t: max(int(batch.text.attention_mask.sum(1).max()) for batch in t.step), 5),
    "image_size": Change(48, lambda t: tuple(t.step[0].images.pixels.shape[-2:]), (48, 48)),
    "original_image_size": refused(384, "which has original_image_size=224"),
    "patch_size": Change(
        8, lambda t: t.built.model.embed_image(t.step[0].images).hidden.shape[1], 17, {"encoder": BERT}
    ),
    "initializer_range": Change(
        0.5, lambda t: round(float(t.built.model.text_projection.weight.detach().std()), 1), 0.5
    ),
    "freeze_encoder": Change(True, lambda t: trainable(t.model.blocks), False, ONE),
    "freeze_image_encoder": Change(True, lambda t: trainable(t.model.image_tower), False),
    "freeze_text_encoder": Change(True, lambda t: trainable(t.model.text_tower), False),
    "freeze_cross_modal_layers": Change(True, lambda t: trainable(t.model.fusion), False),
    "encoder": Change(BERT, lambda t: t.model.pretrained, ("blocks", "text_embeddings"), ONE),
    "random_init_encoder": Change(True, lambda t: weight_of(t.built.model.blocks), base=ONE),
    "encoder_manual_configuration": Change(True, lambda t: weight_of(t.built.model.blocks), base=ONE),
    "hidden_size": Change(24, lambda t: t.model.width, 24, MANUAL_ONE),
    "num_heads": Change(2, lambda t: heads(t.model.blocks), {2}, MANUAL_ONE),
    "num_layers": Change(3, lambda t: layers(t.model.blocks), 3, MANUAL_ONE),
    "mlp_ratio": Change(3, lambda t: widest(t.model.blocks), 96, MANUAL_ONE),
    "drop_rate": Change(0.3, lambda t: drops(t.model.blocks), {0.3}, ONE),
    "embedding_size": Change(
        8, lambda t: narrowest_embedding(t.model.text_embeddings), 8, MANUAL_ONE | {"encoder": ELECTRA_BASE}
    ),
    "image_encoder": Change(VIT, lambda t: [buffer.flatten().tolist() for buffer in t.built.model.normalize.buffers()]),
    "random_init_vision_encoder": Change(True, lambda t: weight_of(t.built.model.image_tower)),
    "image_encoder_manual_configuration": Change(True, lambda t: weight_of(t.built.model.image_tower)),
    "image_encoder_hidden_size": Change(24, lambda t: t.model.image_projection.in_features, 24, MANUAL_IMAGE),
    "image_encoder_num_heads": Change(2, lambda t: heads(t.model.image_tower), {2}, MANUAL_IMAGE),
    "image_encoder_num_layers": Change(3, lambda t: layers(t.model.image_tower), 3, MANUAL_IMAGE),
    "image_encoder_mlp_ratio": Change(3, lambda t: widest(t.model.image_tower), 96, MANUAL_IMAGE),
    "image_encoder_drop_rate": Change(0.3, lambda t: drops(t.model.image_tower), {0.3}),
    "image_encoder_embedding_size": Change(
        12,
        lambda t: next(each.out_channels for each in t.model.image_tower.modules() if isinstance(each, nn.Conv2d)),
        12,
        MANUAL_IMAGE | {"image_encoder": "resnet"},
    ),
    "text_encoder": Change(BERT, lambda t: narrowest_embedding(t.model.text_tower), 32),
    "random_init_text_encoder": Change(True, lambda t: weight_of(t.built.model.text_tower)),
    "text_encoder_manual_configuration": Change(True, lambda t: weight_of(t.built.model.text_tower)),
    "text_encoder_hidden_size": Change(24, lambda t: t.model.text_projection.in_features, 24, MANUAL_TEXT),
    "text_encoder_num_heads": Change(2, lambda t: heads(t.model.text_tower), {2}, MANUAL_TEXT),
    "text_encoder_num_layers": Change(3, lambda t: layers(t.model.text_tower), 3, MANUAL_TEXT),
    "text_encoder_mlp_ratio": Change(3, lambda t: widest(t.model.text_tower), 96, MANUAL_TEXT),
    "text_encoder_drop_rate": Change(0.3, lambda t: drops(t.model.text_tower), {0.3}),
    "text_encoder_embedding_size": Change(8, lambda t: narrowest_embedding(t.model.text_tower), 8, MANUAL_TEXT),
    "fusion": Change("merged", lambda t: t.model.fusion.kind),
    "cross_layer_hidden_size": Change(64, lambda t: t.model.text_projection.out_features, 64),
    "num_cross_layers": Change(3, lambda t: sum(p.numel() for p in t.model.fusion.parameters())),
    "num_cross_layer_heads": Change(4, lambda t: heads(t.model.fusion), {4}),
    "cross_layer_mlp_ratio": Change(2, lambda t: widest(t.model.fusion)),
    "cross_layer_drop_rate": Change(0.3, lambda t: drops(t.model.fusion), {0.3}),
    "loss_names": Change(
        {"mlm": 0, "itm": 2}, lambda t: (set(t.shape.heads), t.module.weights), ({"itm"}, {"itm": 2.0})
    ),
    "mlm_prob": Change(
        1.0, lambda t: sum(map(sum, t.masked())) + 2 * 8 == sum(int(b.text.attention_mask.sum()) for b in t.step), True
    ),
    "whole_word_masking": Change(False, lambda t: t.masked(), base={"datasets": ["long"], "mlm_prob": 0.5}),
    "mlm_stop_words": Change(["view", "of"], lambda t: sum(map(sum, t.masked())), base={"mlm_prob": 1.0}),
    "draw_false_image": Change(1, lambda t: sum(len(batch.images.pixels) for batch in t.step) > 8, True),
    "negative_group": Change(
        2,
        lambda t: all(int(j) // 2 == i // 2 for x in t.targets("itm") for i, j in enumerate(x.image_index)),
        True,
        {"batch_size": 32, "per_gpu_batchsize": 16, "eval_batch_size": 16},
    ),
    "draw_false_text": Change(2, lambda t: len(t.targets("irtr")[0].text.input_ids), 2 * 4, IRTR),
    "get_recall_metric": Change(True, lambda t: t.shape.heads["irtr"].selecting, base=IRTR),
    "rerank_top_k": Change(2, lambda t: refusal(lambda: t.shape), base=IRTR),
    "eccv_caption": Change(
        True,
        lambda t: "has no caption_ids" in (refusal(lambda: t.data) or ""),
        True,
        IRTR | {"datasets": ["coco"], "negative_group": 2},
    ),
    "probe_score": Change(
        "itc", lambda t: "has no trained head of itc" in (refusal(lambda: loaded(t)) or ""), True, ZERO
    ),
    "class_names": Change("names.json", lambda t: t.shape.heads["zeroshot_images"].texts[0], "a photo of a 0.", ZERO),
    "templates": Change("texts.json", lambda t: t.shape.heads["zeroshot_images"].templates, 2, ZERO),
    "frozen_features": Change("text", lambda t: "give image" in (refusal(lambda: t.shape) or ""), True, KNN),
    "shots_per_class": Change(
        99, lambda t: "are fewer training examples" in (refusal(lambda: t.resolved) or ""), True, KNN
    ),
    "shot_draws": Change(
        2,
        lambda t: len(list(t.folder.glob("predictions/*_test_draw*"))),
        2,
        KNN | {"shots_per_class": 1, "cache_dir": "kept"},
    ),
    "knn_neighbours": Change(1, neighbours, "1 nearest neighbours", KNN | {"cache_dir": "kept"}),
    "vqav2_label_size": Change(7, lambda t: refusal(lambda: t.settings) is not None, True, VQA),
    "text_only": Change(False, lambda t: t.shape.heads["glue"].pooler, None, GLUE),
    "image_only": Change(False, lambda t: t.shape.heads["images"].classifier.in_features, 64, IMAGES),
    "blind": Change(
        True, lambda t: all(int(b.images.pixels.flatten(2).float().std(-1).max()) == 0 for b in t.step), True
    ),
    "blind_run": Change(
        "runs", lambda t: "belongs to a downstream task" in (refusal(lambda: blind_run_of(t.settings, ())) or ""), True
    ),
    "optim_type": Change("sgd", lambda t: type(t.module.configure_optimizers()), torch.optim.SGD),
    "learning_rate": Change(0.5, lambda t: max(t.curve()), 0.5, {"warmup_steps": 1}),
    "lr_mult_cross_modal": Change(2, lambda t: t.rate_of("fusion"), 2.0),
    "lr_mult_head": Change(3, lambda t: t.rate_of("head"), 3.0),
    "lr_mult_random": Change(
        3,
        lambda t: t.settings.optim.lr_mult_random == 1 or t.rate_of("random tower"),
        3.0,
        {"random_init_text_encoder": True},
    ),
    "weight_decay": Change(
        0.2, lambda t: {group["weight_decay"] for group in t.module.configure_optimizers().param_groups}, {0.0, 0.2}
    ),
    "decay_power": Change("cosine", Trial.curve),
    "warmup_steps": Change(2, lambda t: t.curve()[1:3], pytest.approx([5e-5, 1e-4])),
    "end_lr": Change(1e-5, lambda t: t.curve()[-1], pytest.approx(1e-5)),
    "max_steps": Change(3, lambda t: t.steps, 3),
    "max_epoch": Change(0.25, lambda t: t.steps, 2),  # of 48 pairs, in batches of 8
    "val_check_interval": Change(2, lambda t: t.trainer.val_check_interval, 2),
    "early_stopping": Change(
        1,
        lambda t: checkpoint.read(str(t.folder / "checkpoints" / "last.ckpt")).training["step"],
        2,
        {"val_check_interval": 1, "learning_rate": 1e-30, "final_test": False},
    ),
    "gradient_clip_val": Change(0.5, clipped, 0.5),
    "num_gpus": Change(2, lambda t: t.trainer.world_size, 2),
    "num_nodes": Change(2, lambda t: (t.trainer.num_nodes, t.trainer.world_size), (2, 2)),
    "accelerator": Change(
        "gpu", lambda t: "no GPU" in (refusal(lambda: devices.check_devices(t.resolver)) or ""), True
    ),
    "precision": Change("64", lambda t: t.trainer.precision, "64-true"),
    "gradient_checkpointing": Change(True, lambda t: kept_bytes(t) < kept_bytes(untouched({})), True),
    "compile": Change(True, lambda t: {batch.text.input_ids.shape[1] % 8 for batch in t.step}, {0}),
    "decode_on_gpu": Change(True, lambda t: t.loaders.source("train").on_device, True),
    "strategy": Change("ddp_bf16", lambda t: type(t.trainer.strategy) is DDPStrategy, False, {"num_gpus": 2}),
    "float32_matmul_precision": Change("high", matmul_precision, "high"),
}

# A third of a second each, and nobody writes to one.
TOKENIZERS = cache(backbones.load_tokenizer)


@pytest.fixture(scope="module")
def folder(hub_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with what the rows of `CHANGES` name."""
    from transformers import ResNetConfig

    home = tmp_path_factory.mktemp("changes")
    small_run.write_coco_vg(home / "arrow")
    small_run.write_coco_vg(home / "fewer", {small_run.COCO.format(split): 3 for split in ("train", "val", "test")})
    small_run.write_pairs(home / "fewer" / small_run.COCO.format("restval"), 1, captions=0)
    small_run.write_pairs(home / "arrow" / "long.arrow", 6)
    for shard in (0, 2):
        small_run.write_pairs(home / "holes" / f"sbu_{shard}.arrow", 4)
    for task, root in (("vqa", "vqa"), ("images", "images")):
        TASKS[task].write(home / "raw" / task, home / root)
    for name, listed in (("names", [*map(str, range(len(CLASSES)))]), ("texts", ["{c}", "a {c}"])):
        (home / f"{name}.json").write_text(json.dumps(listed), encoding="utf-8")
    write_tokenizer(home / "words")
    sizes = {
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "layer_type": "basic",
        "downsample_in_first_stage": True,
    }
    ResNetConfig(**sizes).save_pretrained(home / "resnet")
    return home


@pytest.fixture(scope="module")
def stored(folder: Path) -> None:
    """A checkpoint of the base, other.ckpt, of another seed and three steps old."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        trial = Trial({"seed": 1})
        checkpoint.save("other.ckpt", checkpoint_content(trial.built, trial.resolved)(TrainingState(step=3)))
    finally:
        os.chdir(before)


BASES: dict[str, Trial] = {}
# Their effect is seen while a trial is carried on, or changes it.
LOOKED_AT_ONCE = ("allow_download", "trust_remote_code", "float32_matmul_precision", "gradient_clip_val")


def untouched(base: dict[str, Any]) -> Trial:
    """The trial of a base that many rows look at."""
    return BASES.setdefault(repr(base), Trial(base))


@pytest.fixture
def work(folder: Path, stored: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(backbones, "load_tokenizer", TOKENIZERS)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield folder
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


def test_a_row_for_every_setting():
    assert set(CHANGES) == set(DEFAULTS)


@pytest.mark.parametrize("key", CHANGES)
def test_changing_a_setting_changes_what_it_says(key: str, work: Path):
    change = CHANGES[key]
    before = change.read(Trial(change.base) if key in LOOKED_AT_ONCE else untouched(change.base))
    after = change.read(Trial(change.base | {key: change.value}))
    assert after == change.after
    assert before != after
