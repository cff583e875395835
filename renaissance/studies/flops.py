"""Floating-point operations of a training step: of the products and convolutions of its forward and backward passes."""

from __future__ import annotations

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from renaissance.core.types import ImageInput
from renaissance.tasks import Encodings, task_class
from renaissance.training.assembly import Built
from renaissance.training.resolution import Resolved
from renaissance.training.unused_parameters import dummy_batch

_SAMPLES = 8  # of the batch that is counted: a share of them has false images


def training_flops(shape: Built, resolved: Resolved) -> int | None:
    """FLOPs of a step of `batch_size` samples with texts of `max_text_len` tokens; a multiplication with its addition is two.

    What gradient checkpointing computes again is not counted, nor what is cheaper than a product: norms, softmax, the optimizer.

    Args:
        shape: on the meta device, so nothing is computed; its weights are as good as others.

    Returns:
        None where the model asks its device for numbers, as few families do.
    """
    settings = resolved.settings
    builders = {name: task_class(name).target_builder(settings, resolved.tokenizer) for name in shape.heads}
    batch = dummy_batch(resolved, builders, _SAMPLES, words=settings.model.max_text_len)
    batch = apply_to_collection(batch, Tensor, lambda tensor: tensor.to("meta"))
    shape.model.eval()  # dropout's products are those without
    shape.heads.eval()
    try:
        if settings.data.cache_frozen:  # a step reads the tokens of the frozen tower
            with torch.no_grad():
                batch = apply_to_collection(batch, ImageInput, shape.model.unimodal_image)
        # Fused attention has other names on each device; plain products are counted on all.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            encodings = Encodings(shape.model, batch)
            losses = [task(encodings, batch.targets[name]).loss for name, task in shape.heads.items()]
            sum(losses).backward()
    except (NotImplementedError, RuntimeError):
        return None
    return counter.get_total_flops() * settings.data.batch_size // _SAMPLES
