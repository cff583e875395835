"""Pretrains one of the demo's models, as any other run, and measures what it has learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from renaissance.core.types import ImageInput
from renaissance.data.datasets import open_pairs
from renaissance.data.pairs import PairDataset
from renaissance.data.text import encode
from renaissance.inference.loaded import Loaded
from renaissance.training.train import run

from .pointing import pointing
from .probes import KINDS, MaskedWord, accuracy_by_kind, make_probes, text_only_accuracy
from .raw import scene_index_of
from .settings import demo_settings
from .world import Scene, make_scene, render

PROBE_BATCH = 64
LONGEST_PROBE = 32  # tokens; no caption of the world is cut


def scenes_of(pairs: PairDataset, seed: int) -> list[Scene]:
    """The scene of each caption."""
    return [make_scene(seed, scene_index_of(name)) for name in pairs.image_names(range(len(pairs)))]


def pretrain(recipe: str, root: Path, seed: int, steps: int, **more: Any) -> None:
    """Pretrains, with `more` settings, probes, and writes `<root>/<recipe>.json` with the figures of demo.json."""
    given = {"exp_name": recipe.removeprefix("demo_"), "seed": seed, "max_steps": steps, "val_check_interval": steps}
    settings = demo_settings(root, [recipe], {**given, "log_every_n_steps": 10, "accelerator": "cpu", **more})
    folder = run(settings).path
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
def _guesses(loaded: Loaded, probes: list[MaskedWord], images: list[Scene]) -> list[str]:
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


def _masked(probe: MaskedWord, mask: str) -> str:
    words = probe.text.split()
    words[probe.target.position] = mask
    return " ".join(words)
