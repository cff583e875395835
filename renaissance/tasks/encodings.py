"""The encodings of a micro-batch, which all tasks of a step share."""

from __future__ import annotations

from collections.abc import Set

from torch import Tensor, nn

from renaissance.core.types import Batch, Fused, TextInput, Tokens


class Encodings:
    """The encodings of one micro-batch, each computed on first use and kept for the step.

    Args:
        model: a `TwoTower` or `OneTower`.
        batch: the micro-batch, on the model's device.
    """

    def __init__(self, model: nn.Module, batch: Batch):
        self.model, self.batch = model, batch
        self._texts: dict[int, tuple[TextInput, Tokens]] = {}
        self._images: Tokens | None = None

    def text(self, inputs: Tensor | TextInput | None = None) -> Tokens:
        """Embedded texts: of the batch, of the batch with other `input_ids` (B,L), such as masked ones, or other texts."""
        text = inputs if isinstance(inputs, TextInput) else self.batch.text
        if isinstance(inputs, Tensor):
            text = text._replace(input_ids=inputs)
        # Keyed by identity; the tensor is kept alive, so its id is not reused.
        if (key := id(text.input_ids)) not in self._texts:
            self._texts[key] = text, self.model.embed_text(text)
        return self._texts[key][1]

    def images(self, index: Tensor | None = None) -> Tokens:
        """Embedded images, computed in one pass: the examples' own images, or those that `index` (n,) selects of the M."""
        if self._images is None:
            self._images = self.model.embed_image(self.batch.images)
        if index is not None:
            return self._images.select(index)
        hidden, mask = self._images
        count = len(self.batch.ids) if self.batch.image_counts is None else sum(self.batch.image_counts)
        return Tokens(hidden[:count], None if mask is None else mask[:count])

    def fuse(self, text: Tokens | None, image: Tokens | None, needs: Set[str], slot: int | Tensor = 0) -> Fused:
        """Text and image tokens through the fusion.

        Args:
            needs: the parts of the result that will be read.
            slot: 0 for the first image of an example, 1 for the second; or (B,) int64, one for each pair.
        """
        return self.model.fuse(text, image, slot, needs)

    def encoder_output(self, side: str) -> Tokens:
        """The hidden states of one modality's encoder: (B,N,H), H of `model.unimodal_size[side]`.

        Args:
            side: "text" or "image".
        """
        text, images = self.batch.text, self.batch.images
        return self.model.unimodal_text(text) if side == "text" else self.model.unimodal_image(images)

    def unimodal(self, side: str) -> Tokens:
        """One modality before the fusion, from the same pass that the fusion uses: (B,N,D).

        Args:
            side: "text" or "image".
        """
        return self.model.unimodal(self.text() if side == "text" else self.images(), side)
