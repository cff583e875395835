"""Image-text matching: does this image belong to this text?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from renaissance.core.types import ItmTargets, TaskOutput
from renaissance.data.negatives import FalseImages
from renaissance.models.heads import ItmHead, confidences, predicted_classes
from renaissance.settings.sections import Settings

from .base import Context, Encodings, Task

ANSWERS = ("mismatched", "matched")  # in the order of their labels
MOST_WITHOUT_PARTNER = 0.05  # largest share of pairs without a false image that gives no warning


class Itm(Task):
    """Two-class cross-entropy on the pooled vector; each text is fused with its own image or a false one."""

    keeps_rows = True
    mean_metrics = ("accuracy", "accuracy_matched", "accuracy_mismatched", "without_partner")

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        self.head = ItmHead(model.pooled_size)

    @staticmethod
    def target_builder(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> Callable[[Any], ItmTargets]:
        objectives = settings.objectives
        return FalseImages(settings.run.seed, objectives.negative_group, objectives.draw_false_image)

    def logits(self, encodings: Encodings, targets: ItmTargets) -> Tensor:
        images = encodings.images(targets.image_index)
        return self.head(encodings.fuse(encodings.text(), images, needs={"pooled"}).pooled)

    def measure(self, output: TaskOutput, targets: ItmTargets) -> dict[str, tuple[Tensor, Tensor]]:
        right, matched = output.logits.argmax(-1) == output.labels, output.labels.bool()
        return {
            "accuracy": (right.sum(), output.count),
            "accuracy_matched": ((right & matched).sum(), matched.sum()),
            "accuracy_mismatched": ((right & ~matched).sum(), (~matched).sum()),
            "without_partner": (targets.stayed.sum(), output.count),
        }

    def rows(self, output: TaskOutput, targets: ItmTargets) -> list[dict[str, Any]]:
        """One row a text: whether it was taken for a match, and "shown_position", the sample whose image was shown."""
        found = zip(output.labels.tolist(), predicted_classes(output.logits), confidences(output.logits), strict=True)
        return [
            {
                "prediction": ANSWERS[guess],
                "target": ANSWERS[label],
                "score": float(guess == label and number),
                "confidence": confidence,
                "shown_position": image,
            }
            for image, (label, (guess, number), confidence) in zip(map(int, targets.image_ids), found, strict=True)
        ]

    def target_shares(self, targets: ItmTargets) -> dict[str, Tensor]:
        return {"without_partner": targets.stayed.float().mean()}

    def warnings(self, shares: Mapping[str, float]) -> list[str]:
        share = shares.get("without_partner", 0.0)
        if share <= MOST_WITHOUT_PARTNER:
            return []
        return [
            f"{share:.0%} of the pairs have no eligible false image in their group and stay matched; a larger "
            "negative_group (and per_gpu_batchsize), or draw_false_image=1, gives them one."
        ]
