"""Classes of images without training: each class is the texts that name it (CLIP, Radford et al., ICML 2021).

    texts of a class   "a photo of a {c}." ...   `templates`, each with the name of the class (`class_names`) in the place of {c}
    itc                cosine of the image with the mean of the texts' vectors, once for all images
    itm                mean of the log-odds of the image with each text: every text goes through the fusion with every image

Files are those of CLIP_benchmark: en_classnames.json and en_zeroshot_classification_templates.json, {data set: [...]}.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from renaissance.core.errors import require, shortened
from renaissance.core.types import LabelTargets, TextInput, Tokens
from renaissance.core.untrusted import expect, read_json
from renaissance.data.text import cut_texts, encode
from renaissance.evaluation.metrics import MetricDetails, mean_recall
from renaissance.evaluation.pair_pace import LONG, PairPace, pass_cost
from renaissance.evaluation.ranking import FullSplit
from renaissance.settings.sections import Settings

from .base import Context, Encodings
from .images import TOP, ImageClasses
from .zero_shot import SCORES, ZeroShot, cut_note

SLOT = "{c}"  # in a template, the name of the class
TEMPLATES = ("a photo of a {c}.",)
_TEXTS = 256  # that are encoded at once


class ZeroshotImages(ZeroShot, ImageClasses):
    """The class whose texts have the highest mean score with the image."""

    def __init__(self, model: nn.Module, context: Context):
        super().__init__(model, context)
        settings = context.settings
        # The name of a folder has no spaces.
        names = _listed(settings, "class_names") or [name.replace("_", " ") for name in self.labels]
        templates = _templates(settings)
        self.tokenizer, self.max_text_len = context.tokenizer, settings.model.max_text_len
        self.texts = [template.replace(SLOT, name) for name in names for template in templates]
        self.templates = len(templates)
        self._of_classes: Tensor | list[Tokens] | None = None  # what was computed of the texts, on the device
        self._split: FullSplit | None = None
        self._pace, self._pairs, self._advice = PairPace(0), 0, ""

    @classmethod
    def label_names(cls, settings: Settings, known: Sequence[str] = ()) -> tuple[str, ...] | None:
        """The class names in the files of the run; where these have none, those of `class_names`.

        Raises:
            UserError: `class_names` are others, or a file cannot be used.
        """
        _templates(settings)  # refused here, before a model is built
        stored, given = super().label_names(settings, known), _listed(settings, "class_names")
        if not stored or not given:
            return stored or (tuple(given) if given else None)
        where = f"class_names={settings.objectives.class_names} names"
        require(
            len(given) == len(stored),
            f"{where} {len(given):,} classes, and the files have {len(stored):,} ({shortened(stored, 5)}); give one name each.",
        )
        require(
            set(given) != set(stored) or tuple(given) == stored,
            f"{where} the classes in another order than the files ({shortened(stored, 5)}); give them in theirs.",
        )
        return stored

    def use_loaded(self, parts: Set[str], where: str) -> list[str]:
        [line] = super().use_loaded(parts, where)
        self._advice = "; probe_score=itc takes one pass of each image" if "itc" in parts else ""
        cut = sum(cut_texts(self.tokenizer, self.texts, self.max_text_len))
        return [
            f"{line}; {len(self.texts) // self.templates:,} classes, {self.templates:,} texts each",
            *cut_note(cut, len(self.texts), self.max_text_len),
        ]

    def split_begins(self, split: FullSplit) -> None:
        images = len(range(split.rank, len(split.collate.source.dataset), split.world_size))
        self._split, self._pace, self._pairs = split, PairPace(images * len(self.texts)), 0

    def logits(self, encodings: Encodings, targets: LabelTargets) -> Tensor:
        """(B,classes): with ITC the cosine times its trained scale, as in CLIP; with ITM the mean of log-odds."""
        model = encodings.model
        if self.scored_by == "itm":
            return self._log_odds(model, encodings.images())
        if self._of_classes is None:
            vectors = [self.itc.vectors(model.unimodal(text, "text"), "text").float() for text in self._embedded(model)]
            means = torch.cat(vectors).unflatten(0, (-1, self.templates)).mean(1)
            self._of_classes = F.normalize(means, dim=-1)
        images = self.itc.vectors(encodings.unimodal("image"), "image").float()
        return self.itc.log_scale.exp() * images @ self._of_classes.T

    def _log_odds(self, model: nn.Module, images: Tokens) -> Tensor:
        if self._of_classes is None:
            self._of_classes = list(self._embedded(model))
        count, odds = len(images.hidden), []
        for texts in self._of_classes:
            self._say_cost()
            numbers = (torch.arange(many, device=images.hidden.device) for many in (count, len(texts.hidden)))
            odds.append(self.log_odds(model, texts, images, torch.cartesian_prod(*numbers)).unflatten(0, (count, -1)))
            self._pairs += odds[-1].numel()
            odds[-1][0, 0].item()  # waits for the device, so that the time is that of these pairs
        return torch.cat(odds, 1).unflatten(1, (-1, self.templates)).mean(-1)

    def _say_cost(self) -> None:
        """Says, after some texts with some images, how long all of the split take."""
        if (seconds := self._pace.before(self._pairs)) is not None and self._split is not None:
            what = f"{len(self._split.collate.source.dataset):,} images with {len(self.texts):,} texts of classes"
            advice = self._advice if seconds > LONG else ""
            cost = pass_cost(self._pace.total, seconds, self._split.world_size)
            self._split.say(f"scoring {what}: {cost}{advice}")

    def _embedded(self, model: nn.Module) -> Iterator[Tokens]:
        """The texts of all classes, embedded, some at a time."""
        device = next(model.parameters()).device
        for start in range(0, len(self.texts), _TEXTS):
            _, text = encode(self.tokenizer, self.texts[start : start + _TEXTS], self.max_text_len)
            yield model.embed_text(TextInput(*(field.to(device) for field in text)))

    def score(self, frame: pd.DataFrame) -> dict[str, MetricDetails]:
        """Top-1 and top-5 accuracy, and the mean of the classes' recalls, beside chance."""
        classes = len(self.labels)
        method = f"{SCORES[self.scored_by]}; mean of {self.templates:,} texts a class"
        chance = {"accuracy": 1 / classes, "accuracy_top_5": TOP / classes}
        metrics = {
            name: each._replace(baseline=("chance", chance[name]), method=method)
            for name, each in super().score(frame).items()
        }
        recall = mean_recall(frame, baseline=("chance", 1 / classes), method=method, candidates=classes)
        return metrics | {"mean_per_class_recall": recall}


def _templates(settings: Settings) -> Sequence[str]:
    templates = _listed(settings, "templates") or TEMPLATES
    without = [template for template in templates if SLOT not in template]
    require(
        not without,
        f"templates={settings.objectives.templates} has {without[:1]} without {SLOT}, the place of a class's name; write it "
        "into each.",
    )
    return templates


def _listed(settings: Settings, key: str) -> list[str] | None:
    """The texts of a JSON file that a setting names: a list, or that of the data set among several; None without a file."""
    path, name = getattr(settings.objectives, key), settings.data.datasets[0]
    if not path:
        return None
    found: Any = read_json(path, name=f"{key}={path}")
    if isinstance(found, dict):
        require(
            name in found,
            f"{key}={path} has nothing for '{name}' (it has {shortened([*found], 5)}); add it, or give a list.",
        )
        found = found[name]
    texts = expect(found, list[str], f"{key}={path}")
    require(texts, f"{key}={path} has no text for '{name}'; give at least one.")
    return texts
