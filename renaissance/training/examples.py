"""The first examples of the validation split, as loggers show them: taken from batches that a validation computes anyway."""

from __future__ import annotations

from torch import Tensor, cat
from transformers import PreTrainedTokenizerBase

from renaissance.core.errors import UserError
from renaissance.core.types import Batch, ImageInput
from renaissance.runs.loggers import ShownExample
from renaissance.tasks import Task

from .module import EvaluationOutput

COUNT = 8  # examples
_IMAGES = 4  # of an example, side by side


class ValidationExamples:
    """Collects the same examples in each validation: the first ones that this process evaluates.

    Args:
        heads: the tasks by name. tokenizer: of the model.
    """

    def __init__(self, heads: dict[str, Task], tokenizer: PreTrainedTokenizerBase):
        self.heads, self.tokenizer = heads, tokenizer
        self.found: list[ShownExample] = []

    def update(self, output: EvaluationOutput) -> None:
        """Looks at a batch until there are enough; reads them from the device."""
        for batch, outputs in () if isinstance(output, UserError) else output:
            if (wanted := COUNT - len(self.found)) <= 0:
                return
            columns = [dict[str, str]() for _ in batch.ids]
            for name, out in outputs.items():
                for into, shown in zip(columns, self.heads[name].shown(out, batch.targets[name], self.tokenizer)):
                    into |= shown
            pictures, masks = _pictures(batch, wanted), batch.text.attention_mask.tolist()
            for place, pieces in enumerate(batch.text.input_ids[:wanted].tolist()):
                real = [piece for piece, is_real in zip(pieces, masks[place], strict=True) if is_real]
                text = self.tokenizer.decode(real, skip_special_tokens=True)
                self.found.append(ShownExample(pictures[place], text, columns[place]))


def _pictures(batch: Batch, count: int) -> list[Tensor | None]:
    """The pictures of the first examples of a batch, on the processor."""
    if not isinstance(batch.images, ImageInput):
        return [None] * count
    pictures: list[Tensor | None] = []
    start = 0
    for images in (batch.image_counts or (1,) * len(batch.ids))[:count]:
        own = range(start, start + min(images, _IMAGES))
        start += images
        cut = [batch.images.pixels[each] for each in own]
        if batch.images.sizes is not None:
            cut = [
                pixels[:, : batch.images.sizes[each][0], : batch.images.sizes[each][1]]
                for each, pixels in zip(own, cut)
            ]
        height = min((pixels.shape[1] for pixels in cut), default=0)
        pictures.append(cat([pixels[:, :height] for pixels in cut], -1).cpu() if cut else None)
    return pictures
