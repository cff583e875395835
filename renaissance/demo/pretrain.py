"""Pretrains one of the demo's models, through the same code path as any other run, and measures what it has learned.

Only its data differ: half of the content words of a caption are masked, not 15 % of all words, and the first steps show
one-object scenes only. So a model of two million parameters learns in minutes instead of hours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from renaissance.core.types import ImageInput
from renaissance.data.collate import MicroBatch
from renaissance.data.datasets import open_pairs
from renaissance.data.masking import MlmMasker
from renaissance.data.pairs import PairDataset
from renaissance.data.sampler import Draw, TrainSteps
from renaissance.data.text import encode, vocabulary
from renaissance.inference.loaded import Loaded
from renaissance.training.loading import RunData, read_data
from renaissance.training.resolution import Resolved
from renaissance.training.train import run

from .pointing import pointing
from .probes import KINDS, Probe, accuracy_by_kind, content_words, make_probes, text_only_accuracy
from .raw import scene_index_of
from .settings import demo_settings
from .world import Scene, make_scene, render

FIRST_STAGE = 0.1  # share of the steps that show one-object scenes only
MASKED_SHARE = 0.5  # of the content words of a caption
PROBE_BATCH = 64
LONGEST_PROBE = 32  # tokens; no caption of the world is cut


class ContentWordMasker(MlmMasker):
    """Builds `MlmTargets` that mask content words only; picklable.

    Args:
        tokenizer: of the demo, one piece a word. seed: the run's.
    """

    def __init__(self, tokenizer: Any, seed: int):
        super().__init__(vocabulary(tokenizer), MASKED_SHARE, whole_word_masking=True, seed=seed)

    def words(self, micro: MicroBatch) -> np.ndarray:
        words = super().words(micro)
        for row, example in zip(words, micro.examples, strict=True):
            row[~np.isin(row, [word.position for word in content_words(example.text)])] = -1
        return words


class CurriculumSteps(TrainSteps):
    """`TrainSteps` whose first steps draw from the `easy` samples only.

    Args:
        easy: ids of the one-object samples. Other arguments as of `TrainSteps`.
    """

    def __init__(self, easy: list[int], num_samples: int, *args: Any):
        super().__init__(num_samples, *args)
        self.easy, self.first_stage = easy, TrainSteps(len(easy), *args)

    def draws(self, step: int) -> list[Draw]:
        if step >= int(FIRST_STAGE * self.last_step):
            return super().draws(step)
        return [draw._replace(id=self.easy[draw.id]) for draw in self.first_stage.draws(step)]


def demo_data(resolved: Resolved) -> RunData:
    """The data of any other run, with the demo's masking and curriculum."""
    data, seed = read_data(resolved), resolved.settings.run.seed
    data.target_builders["mlm"] = ContentWordMasker(resolved.tokenizer, seed)
    scenes = scenes_of(data.samples["train"], seed)
    easy = [index for index, made in enumerate(scenes) if len(made.objects) == 1]
    data.train_steps = lambda *args: CurriculumSteps(easy, *args)
    return data


def scenes_of(pairs: PairDataset, seed: int) -> list[Scene]:
    """The scene of each caption."""
    return [make_scene(seed, scene_index_of(name)) for name in pairs.image_names(range(len(pairs)))]


def pretrain(recipe: str, root: Path, seed: int, steps: int, **more: Any) -> None:
    """Pretrains, with `more` settings, probes, and writes `<root>/<recipe>.json` with the figures of demo.json."""
    given = {"exp_name": recipe.removeprefix("demo_"), "seed": seed, "max_steps": steps, "val_check_interval": steps}
    settings = demo_settings(root, [recipe], {**given, "log_every_n_steps": 10, "accelerator": "cpu", **more})
    folder = run(settings, demo_data).path
    itm = json.loads((folder / "results.json").read_text(encoding="utf-8"))["test"]["itm"]
    figures = {f"itm{end}": itm[f"accuracy{end}"] for end in ("", "_matched", "_mismatched")}
    best, scenes = folder / "checkpoints" / "best.ckpt", held_out(Path(settings["data_root"]), seed)
    figures |= probe(best, Path(settings["data_root"]), scenes) | {"heat_maps": pointing(best, scenes, seed)}
    content = {"run_folder": str(folder), "figures": figures}
    (root / f"{recipe}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def held_out(data_root: Path, seed: int) -> list[Scene]:
    """The test scenes."""
    return list(dict.fromkeys(scenes_of(open_pairs(["coco"], "test", data_root), seed)))


def probe(path: Path, data_root: Path, scenes: list[Scene]) -> dict[str, dict[str, float]]:
    """Accuracy of masked words by kind on the held-out test scenes.

    Returns:
        {"mlm": with the right image, "mlm_wrong_picture": with another, "mlm_text_only": of the best guess from the text},
        each {kind: accuracy}.
    """
    loaded = Loaded(path)
    probes = make_probes(scenes)
    figures = {}
    for name, attribute in (("mlm", "image"), ("mlm_wrong_picture", "wrong_image")):
        images = [scenes[getattr(each, attribute)] for each in probes]
        figures[name] = accuracy_by_kind(probes, _guesses(loaded, probes, images))
    trained = open_pairs(["coco"], "train", data_root)
    figures["mlm_text_only"] = text_only_accuracy(map(trained.text, range(len(trained))), probes)
    return {name: {kind: of[kind] for kind in KINDS} for name, of in figures.items()}


@torch.no_grad()
def _guesses(loaded: Loaded, probes: list[Probe], images: list[Scene]) -> list[str]:
    """The model's word for each probe, with the image of the scene beside it."""
    guesses: list[str] = []
    model, tokenizer = loaded.model, loaded.tokenizer
    for start in range(0, len(probes), PROBE_BATCH):
        batch = slice(start, start + PROBE_BATCH)
        texts = [_masked(probe, tokenizer.mask_token) for probe in probes[batch]]
        _, text = encode(tokenizer, texts, LONGEST_PROBE)
        pixels = torch.from_numpy(np.stack([render(each) for each in images[batch]])).permute(0, 3, 1, 2)
        fused = model.fuse(model.embed_text(text), model.embed_image(ImageInput(pixels)), needs={"text"})
        logits = loaded.heads["mlm"].head(fused.text[text.input_ids == tokenizer.mask_token_id])
        guesses += tokenizer.convert_ids_to_tokens(logits.argmax(-1).tolist())
    return guesses


def _masked(probe: Probe, mask: str) -> str:
    words = probe.text.split()
    words[probe.target.position] = mask
    return " ".join(words)
