"""One frozen, checked `Settings`: what every room reads. A `Draft` makes it of a command; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .keys import DIMENSIONS


@dataclass(frozen=True)
class TowerSettings:
    """One pretrained encoder. Sizes are the model's own unless `manual` is True; `mlp_ratio` is feed-forward / width."""

    name: str
    random_init: bool
    manual: bool
    hidden_size: int | None
    num_heads: int | None
    num_layers: int | None
    mlp_ratio: float | None
    drop_rate: float | None
    embedding_size: int | None
    frozen: bool

    @property
    def random(self) -> bool:
        """Whether it starts from random weights, where no checkpoint brings others."""
        return self.manual or self.random_init

    @property
    def dimensions(self) -> dict[str, Any]:
        """The sizes that a manual configuration sets, by their plain names."""
        return {name: getattr(self, name) for name in DIMENSIONS}


@dataclass(frozen=True)
class FusionSettings:
    """The fusion of a two-tower model: `kind` is shared, separate or merged; width and heads in units."""

    kind: str
    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_ratio: float
    drop_rate: float
    frozen: bool


@dataclass(frozen=True)
class ModelSettings:
    """What is built. `encoder` is set for one-tower, the other three for two-tower. Sizes in pixels and tokens."""

    model_type: str
    pooler_type: str
    tokenizer: str
    vocab_size: int
    max_text_len: int
    image_size: int
    patch_size: int | None
    initializer_range: float | None
    encoder: TowerSettings | None
    image_encoder: TowerSettings | None
    text_encoder: TowerSettings | None
    fusion: FusionSettings | None


@dataclass(frozen=True)
class DataSettings:
    """What is read and how it is batched; batch sizes in pairs."""

    datasets: tuple[str, ...]
    data_root: str
    allow_missing_shards: bool
    batch_size: int
    per_gpu_batchsize: int
    eval_batch_size: int
    eval_limit: int | None
    train_transform: str
    val_transform: str
    num_workers: int


@dataclass(frozen=True)
class ObjectiveSettings:
    """Loss weights by task (only those above 0) and what their targets are made with."""

    loss_names: dict[str, float]
    mlm_prob: float
    whole_word_masking: bool
    draw_false_image: int
    negative_group: int
    draw_false_text: int
    get_recall_metric: bool
    rerank_top_k: int | None
    vqav2_label_size: int | None
    text_only: bool
    image_only: bool
    blind: bool


@dataclass(frozen=True)
class OptimSettings:
    """Optimizer and schedule; `warmup_steps` and `val_check_interval` are steps (int) or a share (float)."""

    optim_type: str
    learning_rate: float
    lr_mult_cross_modal: float
    lr_mult_head: float
    lr_mult_random: float
    weight_decay: float
    decay_power: float | str
    warmup_steps: int | float
    end_lr: float
    max_steps: int | None
    max_epoch: float | None
    val_check_interval: int | float
    gradient_clip_val: float | None


@dataclass(frozen=True)
class MachineSettings:
    """Where it runs; `processes` over all nodes."""

    num_gpus: int
    num_nodes: int
    accelerator: str
    precision: str
    gradient_checkpointing: bool
    compile: bool
    strategy: str
    float32_matmul_precision: str

    @property
    def processes(self) -> int:
        return self.num_gpus * self.num_nodes


@dataclass(frozen=True)
class RunSettings:
    """The run itself: its name, folder, and what it starts from."""

    exp_name: str
    seed: int
    log_dir: str
    load_path: str | None
    resume_from: str | None
    test_only: bool
    final_test: bool
    fast_dev_run: int
    log_every_n_steps: int
    max_bad_steps: int
    save_every_steps: int | None
    save_every_minutes: float | None
    keep_last: int
    max_time: str | None
    trust_remote_code: bool
    allow_download: bool
    blind_run: str | None


@dataclass(frozen=True)
class Settings:
    """Everything a run needs, resolved. `flat` and `sources` are the same by key: its value, and where it came from."""

    run: RunSettings
    data: DataSettings
    model: ModelSettings
    objectives: ObjectiveSettings
    optim: OptimSettings
    machine: MachineSettings
    flat: dict[str, Any]
    sources: dict[str, str]
