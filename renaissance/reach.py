"""Which parameters the chosen tasks reach. What none of them reads is frozen but kept and saved.

So a checkpoint's keys never depend on its tasks, and several processes need not search for unused parameters at each
step.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor

from .assembly import Built, Resolved
from .data.collate import Collate, Maker, Source
from .data.pairs import RawPair
from .data.transforms import make_transform
from .tasks import Encodings
from .types import Batch, Example


def freeze_unread(built: Built, resolved: Resolved, makers: Mapping[str, Maker]) -> list[str]:
    """Freezes every trainable parameter that no chosen task's loss depends on.

    The losses of two made-up pairs are computed once, and their graph is followed down to its parameters. The model is
    left in train mode.

    Returns:
        The names of the parameters frozen here.
    """
    built.model.eval()  # in train mode, batch norms would take the made-up pictures into their statistics
    built.heads.eval()
    encodings = Encodings(built.model, made_up_batch(resolved, makers))
    with torch.enable_grad():
        losses = [task(encodings, encodings.batch.targets[name]).loss for name, task in built.heads.items()]
    built.model.train()
    built.heads.train()
    reached = reached_by(losses)
    frozen = []
    for module in (built.model, built.heads):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and id(parameter) not in reached:
                parameter.requires_grad_(False)
                frozen.append(name)
    return frozen


def reached_by(losses: list[Tensor]) -> set[int]:
    """The `id` of every leaf that the losses' graph ends in."""
    found: set[int] = set()
    seen: set[object] = set()
    open_nodes = [loss.grad_fn for loss in losses if loss.grad_fn is not None]
    while open_nodes:
        node = open_nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        open_nodes += [following for following, _ in node.next_functions if following is not None]
    return found


class _Blank:
    """A data set of grey pictures, for makers that draw one more."""

    def __init__(self, picture: Tensor):
        encoded = io.BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(encoded, "PNG")
        self.encoded = encoded.getvalue()

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> RawPair:
        return RawPair(index, self.encoded, "", frozenset(), -1, "a made-up picture")


def made_up_batch(resolved: Resolved, makers: Mapping[str, Maker]) -> Batch:
    """Two pairs with the words of one sentence and grey pictures, through the real collation."""
    model = resolved.settings.model
    transform = make_transform("imagenet", model.image_size, patch_size=model.patch_size or 1, seed=0, train=False)
    grey = torch.full((3, model.image_size, model.image_size), 127, dtype=torch.uint8)
    examples = [
        Example(id=number, epoch=0, pixels=grey, text="two small pictures", texts=frozenset(), picture=number)
        for number in range(2)
    ]
    collate = Collate(resolved.tokenizer, model.max_text_len, 2, makers, Source(_Blank(grey), transform))
    return collate(examples)[0]
