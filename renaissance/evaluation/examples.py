"""The first examples of the validation split, as loggers show them: taken from batches that a validation computes anyway."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, cat, equal
from transformers import PreTrainedTokenizerBase

from renaissance.core.types import Batch, ImageInput, TaskOutput
from renaissance.runs.loggers import ShownExample

COUNT = 8  # examples
_CANDIDATES = 64  # examples among which those are; captions of one image follow one another
_IMAGES = 4  # of an example, side by side


class ValidationExamples:
    """Collects the same examples in each validation: the first ones that this process evaluates, of as many images as there are.

    Args:
        shown: `Task.shown` of each task, by its name. tokenizer: of the model.
    """

    def __init__(self, shown: Mapping[str, Callable[..., list[dict[str, str]]]], tokenizer: PreTrainedTokenizerBase):
        self.shown, self.tokenizer = shown, tokenizer
        self._new: list[ShownExample] = []
        self._repeated: list[ShownExample] = []  # of images that another example has

    @property
    def found(self) -> list[ShownExample]:
        return [*self._new, *self._repeated][:COUNT]

    def update(self, batch: Batch, outputs: Mapping[str, TaskOutput]) -> None:
        """Looks at a micro-batch and what each task makes of it, until there are enough; reads them from the device."""
        wanted = _CANDIDATES - len(self._new) - len(self._repeated)
        if wanted <= 0 or len(self._new) >= COUNT:
            return
        columns: list[dict[str, str]] = [{} for _ in batch.ids]
        for name, output in outputs.items():
            for place, shown in enumerate(self.shown[name](output, batch.targets[name], self.tokenizer)):
                columns[place] |= shown
        pictures, masks = _pictures(batch, wanted), batch.text.attention_mask.tolist()
        for place, pieces in enumerate(batch.text.input_ids[:wanted].tolist()):
            real = [piece for piece, is_real in zip(pieces, masks[place], strict=True) if is_real]
            text = self.tokenizer.decode(real, skip_special_tokens=True)
            self._add(ShownExample(pictures[place], text, columns[place]))

    def _add(self, example: ShownExample) -> None:
        own = example.picture
        there = (each.picture for each in self._new if own is not None)
        (self._repeated if any(each is not None and equal(each, own) for each in there) else self._new).append(example)


def _pictures(batch: Batch, count: int) -> list[Tensor | None]:
    """The pictures of the first examples of a batch, on the processor."""
    if not isinstance(batch.images, ImageInput):
        return [None] * count
    pictures: list[Tensor | None] = []
    start = 0
    for images in (batch.image_counts or (1,) * len(batch.ids))[:count]:
        own = slice(start, start + min(images, _IMAGES))
        start += images
        shown = [*batch.images.pixels[own]]
        if batch.images.sizes is not None:  # the rest is padding
            shown = [
                pixels[:, :height, :width]
                for pixels, (height, width) in zip(shown, batch.images.sizes[own], strict=True)
            ]
        lowest = min((pixels.shape[1] for pixels in shown), default=0)
        pictures.append(cat([pixels[:, :lowest] for pixels in shown], -1).cpu() if shown else None)
    return pictures
