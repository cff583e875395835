"""Checkpoints of any pair of families and any tasks, without a run: random weights that all have an effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from models.families import small_config
from renaissance.runs import checkpoint
from renaissance.runs.stored import TrainingState
from renaissance.settings.declared import defaults
from renaissance.training.assembly import build
from renaissance.training.checkpointing import checkpoint_content
from renaissance.training.resolution import resolve
from small_run import resolver
from tiny_models import VOCAB, stirred, tokenizer

ANSWERS = ("two", "red", "yes")
FUSION = {"cross_layer_hidden_size": 24, "num_cross_layers": 2, "num_cross_layer_heads": 2}


def write_checkpoint(
    path: Path, towers: dict[str, str], tasks: tuple[str, ...] = ("mlm", "itm"), **settings: Any
) -> Path:
    """Writes `<path>/model.ckpt`.

    Args:
        path: a new folder. towers: model type by key, such as {"encoder": "vit"}.
    """
    given: dict[str, Any] = {"allow_download": False, "max_text_len": 12}
    for key, kind in towers.items():
        config = small_config(kind)
        if hasattr(config, "vocab_size"):
            config.vocab_size = max(config.vocab_size, VOCAB)
        folder = path / key
        config.save_pretrained(folder)
        given[key] = str(folder)
    tokenizer().save_pretrained(path / "tokenizer")
    random = {"encoder": "random_init_encoder", "image_encoder": "random_init_vision_encoder"}
    given |= {
        "tokenizer": str(path / "tokenizer"),
        **{random.get(key, "random_init_text_encoder"): True for key in towers},
    }
    given |= {"model_type": "one-tower"} if "encoder" in towers else FUSION
    given |= {"loss_names": defaults()["loss_names"] | dict.fromkeys(tasks, 1)} | settings
    resolved = resolve(resolver(**given), reads_data=False)
    labels = {task: ANSWERS for task in tasks if task in ("vqa", "images")}
    resolved = resolved._replace(labels=resolved.labels | labels)
    built = build(resolved)
    stirred(built.model), stirred(built.heads, 1)
    for buffer in (*built.model.buffers(), *built.heads.buffers()):
        if buffer.is_floating_point() and buffer.ndim == 1:
            buffer.copy_(torch.rand(buffer.shape) + 0.5)
    target = path / "model.ckpt"
    checkpoint.save(target, checkpoint_content(built, resolved)(TrainingState(step=3)))
    return target
