"""Pretrains one of the demo's models, through the same code path as any other run, and measures what it has learned.

What is the demo's own is its data: half of the content words of a caption are masked, not 15 % of all words, and the first
steps show scenes of one object only. Both make a model of two million parameters learn in minutes what else takes hours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from renaissance.core.types import Batch, ImageInput, MlmTargets
from renaissance.data.collate import MicroBatch
from renaissance.data.masking import choose, hide, words_of
from renaissance.data.sampler import Draw, TrainSteps, permuted
from renaissance.data.text import encode, vocabulary
from renaissance.runs import checkpoint
from renaissance.settings.declared import defaults
from renaissance.settings.presets import presets
from renaissance.settings.resolver import ConfigResolver
from renaissance.tasks import Encodings
from renaissance.training.assembly import build
from renaissance.training.loading import Data, read_data
from renaissance.training.resolution import Resolved
from renaissance.training.train import prepare_run, run

from .probes import KINDS, Probe, accuracy_by_kind, content_words, probes, text_only_accuracy
from .raw import scene_index_of
from .world import Scene, render, scene

FIRST_STAGE = 0.1  # share of the steps that show one-object scenes only
MASKED_SHARE = 0.5  # of the content words of a caption
PROBE_BATCH = 64
LONGEST_PROBE = 32  # tokens; no caption of the world is cut


class ContentWordMasker:
    """Builds `MlmTargets` that masks content words only; picklable.

    Args:
        tokenizer: of the demo, one piece a word. seed: the run's.
    """

    def __init__(self, tokenizer: Any, seed: int):
        self.vocabulary, self.seed = vocabulary(tokenizer), seed

    def __call__(self, micro: MicroBatch) -> MlmTargets:
        words = np.full(tuple(micro.text.input_ids.shape), -1)
        for row, example, encoding in zip(words, micro.examples, micro.encoding.encodings, strict=True):
            content = {word.position for word in content_words(example.text)}
            row[: len(encoding.ids)] = [word if word in content else -1 for word in words_of(encoding, example.text)]
        chosen = choose(micro, words, self.vocabulary, MASKED_SHARE, self.seed)
        return hide(micro, chosen, self.vocabulary, self.seed)


class CurriculumSteps(TrainSteps):
    """`TrainSteps` whose first steps draw from the `easy` samples only.

    Args:
        easy: (n,) ids of the one-object samples. The others are those of `TrainSteps`.
    """

    def __init__(self, easy: np.ndarray, *args: Any):
        super().__init__(*args)
        self.easy, self.easy_steps = easy, int(FIRST_STAGE * self.last_step)

    def draws(self, step: int) -> list[Draw]:
        if step >= self.easy_steps:
            return super().draws(step)
        start = step * self.batch_size + self.rank * self.share
        epochs, places = np.divmod(np.arange(start, start + self.share, dtype=np.int64), len(self.easy))
        ids = self.easy[permuted(self.seed, epochs, places, len(self.easy))]
        return [Draw(epoch, id) for epoch, id in zip(epochs.tolist(), ids.tolist(), strict=True)]


def demo_data(resolved: Resolved) -> Data:
    """The arrow files like any other run, with the demo's masking and order."""
    data = read_data(resolved)
    settings = resolved.settings
    data.target_builders["mlm"] = ContentWordMasker(resolved.tokenizer, settings.run.seed)
    files = [file.file for file in data.samples["train"].describe()]
    scenes = [made for file in files for made, captions in scenes_of(Path(settings.data.data_root) / file, settings.run.seed)
              for _ in captions]  # fmt: skip
    easy = np.array([index for index, made in enumerate(scenes) if len(made.objects) == 1])
    data.train_steps = lambda *args: CurriculumSteps(easy, *args)
    return data


def scenes_of(file: Path, seed: int) -> Iterator[tuple[Scene, list[str]]]:
    """The scene and the captions of each row of a prepared file."""
    with pa.memory_map(str(file)) as source:
        table = pa.ipc.open_file(source).read_all().select(["image_id", "caption"])
        for image_id, captions in zip(table["image_id"].to_pylist(), table["caption"].to_pylist(), strict=True):
            yield scene(seed, scene_index_of(image_id)), captions


def resolver(recipe: str, root: Path, seed: int, steps: int) -> ConfigResolver:
    """The settings of one of the demo's recipes, with its files under `root`."""
    values, preset = defaults(), presets()[recipe]
    given = {"exp_name": recipe.removeprefix("demo_"), "seed": seed, "max_steps": steps, "val_check_interval": steps}
    given |= {"log_every_n_steps": 10, "accelerator": "cpu"}
    moved = {
        key: str(root / Path(value).name)
        for key, value in preset.items()
        if isinstance(value, str) and value.startswith("demo/")
    }
    sources = {**dict.fromkeys(preset, f"preset {recipe}"), **dict.fromkeys({**given, **moved}, "given")}
    return ConfigResolver({**values, **preset, **given, **moved}, sources)


def pretrain(recipe: str, root: str, seed: int, steps: int, threads: int) -> None:
    """Pretrains, probes, and writes `<root>/<recipe>.json` with the figures of demo.json."""
    torch.set_num_threads(threads)
    settings = resolver(recipe, Path(root), seed, steps)
    folder = run(settings, demo_data)
    results = json.loads((folder.path / "results.json").read_text(encoding="utf-8"))["test"]
    figures = {
        "itm": results["itm"]["accuracy"],
        "itm_matched": results["itm"]["accuracy_matched"],
        "itm_mismatched": results["itm"]["accuracy_mismatched"],
        **probe(folder.path / "checkpoints" / "best.ckpt", Path(settings["data_root"]), seed),
    }
    content = {"run_folder": str(folder.path), "figures": figures}
    Path(root, f"{recipe}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def probe(path: Path, data_root: Path, seed: int) -> dict[str, dict[str, float]]:
    """Accuracy of masked words by kind on the held-out test scenes.

    Returns:
        {"mlm": with the right picture, "mlm_wrong_picture": with another, "mlm_text_only": of the best guess from the text},
        each {kind: accuracy}.
    """
    stored = checkpoint.read(path)
    resolved = prepare_run(ConfigResolver.from_checkpoint(stored.settings, str(path)))
    built = build(resolved, pretrained=False)
    checkpoint.load_weights(built.model, built.heads, stored, str(path))
    built.model.eval()
    built.heads.eval()
    scenes = [made for made, _ in scenes_of(data_root / "coco_caption_karpathy_test.arrow", seed)]
    asked = probes(scenes)
    figures = {}
    for name, attribute in (("mlm", "image"), ("mlm_wrong_picture", "wrong_image")):
        guesses = _guesses(built.model, built.heads["mlm"], resolved.tokenizer, asked, scenes, attribute)
        figures[name] = accuracy_by_kind(asked, guesses)
    train_files = [data_root / f"coco_caption_karpathy_{split}.arrow" for split in ("train", "restval")]
    texts = [text for file in train_files for _, captions in scenes_of(file, seed) for text in captions]
    figures["mlm_text_only"] = text_only_accuracy(texts, asked)
    return {name: {kind: of[kind] for kind in KINDS} for name, of in figures.items()}


@torch.no_grad()
def _guesses(
    model: nn.Module, head: nn.Module, tokenizer: Any, asked: list[Probe], scenes: list[Scene], attribute: str
) -> list[str]:
    """The model's word for each probe, with the picture that `attribute` names."""
    words: list[str] = []
    for start in range(0, len(asked), PROBE_BATCH):
        part = asked[start : start + PROBE_BATCH]
        masked = [_masked(each, tokenizer.mask_token) for each in part]
        _, text = encode(tokenizer, masked, LONGEST_PROBE)
        pictures = np.stack([render(scenes[getattr(each, attribute)]) for each in part])
        images = ImageInput(torch.from_numpy(pictures).permute(0, 3, 1, 2))
        batch = Batch(torch.arange(len(part)), text, images, {})
        encodings = Encodings(model, batch)
        fused = encodings.fuse(encodings.text(), encodings.images(), needs={"text"})
        logits = head.head(fused.text[text.input_ids == tokenizer.mask_token_id])
        words += tokenizer.convert_ids_to_tokens(logits.argmax(-1).tolist())
    return words


def _masked(asked: Probe, mask: str) -> str:
    words = asked.text.split()
    words[asked.target.position] = mask
    return " ".join(words)
