"""What does ranking every image with every text cost beside encoding each pair anew, and beside its own lower bound?

    python benchmarks/retrieval.py [--images 64] [--many 250] [--image_size 48] [--threads 1]

One run on one machine prints a table in Markdown: DeiT-tiny, ELECTRA-small and a fusion of 6 x 256, random weights, fp32,
captions as long as COCO's. The bound is each image and each caption through its tower once, and every pair through the
fusion, which is timed alone. Encoding pairs anew is timed on random texts with all images, so that their ranks can be
compared too. All times are of the processor. Neighbours slow even those, by a tenth and more; so what the exact ranking is
compared with takes turns with it.

With 250 images of 224 pixels a run would take hours. A pair costs less with smaller ones, but the share of the towers in it
stays about the same; the last lines show it for both sizes. Candidates pay off with the number of images: of a few, 16 are
a large share.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import DeiTConfig, ElectraConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from coco_like import MAX_TEXT_LEN, VOCAB_SIZE, tokenizer, write_captions  # noqa: E402

from renaissance.core.types import ImageInput, TextInput  # noqa: E402
from renaissance.data.collate import Collate, Source  # noqa: E402
from renaissance.data.pairs import PairDataset  # noqa: E402
from renaissance.data.text import encode  # noqa: E402
from renaissance.data.transforms import make_transform  # noqa: E402
from renaissance.evaluation.ranking import TOKENS, FullSplit, Ranking  # noqa: E402
from renaissance.evaluation.ranks import TIED, Ranked, recalls  # noqa: E402
from renaissance.models import backbones  # noqa: E402
from renaissance.models.embeddings import Normalize  # noqa: E402
from renaissance.models.fusion import FusionStack  # noqa: E402
from renaissance.models.heads import ItmHead  # noqa: E402
from renaissance.models.initialization import initialize  # noqa: E402
from renaissance.models.two_tower import TwoTower  # noqa: E402
from renaissance.tasks.base import Context  # noqa: E402
from renaissance.tasks.itc import Itc  # noqa: E402

SEED, BATCH, TOP, PAIRS = 1, 32, 16, 2_000
FUSION_CALLS = 4  # of the fusion alone, each on as many pairs as the product gives it
BOUND_BAR, ANEW_BAR, TOP_BAR = 1.15, 1.8, 15


class Parts(NamedTuple):
    """A model, how well its pooled vectors (n,Dp) match, and its contrastive head."""

    model: TwoTower
    match: Callable[[Tensor], Tensor]
    itc: Itc


def build(image_size: int) -> Parts:
    torch.manual_seed(SEED)
    text = backbones.build_text_tower(ElectraConfig(), weights=None, vocab_size=VOCAB_SIZE)
    deit_tiny = DeiTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768)
    image = backbones.build_vision_tower(deit_tiny, weights=None, image_size=image_size)
    fusion = FusionStack("shared", num_layers=6, width=256, heads=4, mlp_ratio=4, drop_rate=0.1)
    model = TwoTower(text, image, fusion, "double", Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    head, itc = ItmHead(model.pooled_size), Itc(model, Context(None, VOCAB_SIZE))
    for part in (model, head, itc):
        initialize(part)
    return Parts(model.eval(), lambda pooled: head(pooled).diff(dim=-1).squeeze(-1), itc)


def timed(work: Callable[[], object]) -> tuple[object, float]:
    """What `work` returns, and its seconds of the processor."""
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


def rank(
    parts: Parts, source: Source, top: int | None = None, turn: Callable[[], object] = lambda: None
) -> tuple[Ranked, float]:
    """The product's own ranking, with reading and decoding, on one process; `turn`, after each batch, is not counted."""
    aside = 0.0

    def match(pooled: Tensor) -> Tensor:
        nonlocal aside
        aside += timed(turn)[1]
        return parts.match(pooled)

    split = FullSplit(Collate(tokenizer(), MAX_TEXT_LEN, BATCH, {}, source), 0, 0, 1, lambda value: [value], print)
    ranking = Ranking(parts.model, match, split)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(sys.stderr):
        ranked, seconds = timed(lambda: ranking.run(top, parts.itc.vectors))
    return ranked, seconds - aside


class Encoded(NamedTuple):
    """All texts and images, ready for the towers. Attributes: texts, by ascending length; order, their numbers."""

    texts: TextInput
    order: np.ndarray
    images: ImageInput


def ready(source: Source) -> Encoded:
    dataset = source.dataset
    _, text = encode(tokenizer(), [dataset.text(number) for number in range(len(dataset))], MAX_TEXT_LEN)
    order = text.attention_mask.sum(1).argsort(stable=True)
    pixels = [source.images(dataset[number], 0)[0] for number in range(len(dataset))]
    return Encoded(TextInput(*(field[order] for field in text)), order.numpy(), ImageInput(torch.stack(pixels)))


def cut(text: TextInput, index: Tensor) -> TextInput:
    """Some texts, padded no further than the longest of them, rounded up as the product does."""
    length = -(-int(text.attention_mask[index].sum(1).max()) // 4) * 4
    return TextInput(*(field[index, :length] for field in text))


class Compared:
    """What the exact ranking is compared with, in small pieces that take turns with it.

    Args:
        texts: places in `encoded` of the texts that are scored with all images, each pair through the whole model.

    Attributes:
        once: seconds of encoding everything once. fused: seconds a pair of the fusion alone, over text lengths as
            frequent as they are. anew: seconds of each piece of `scores`, which become (texts, images) at the end.
    """

    def __init__(self, parts: Parts, encoded: Encoded, texts: np.ndarray):
        self.parts, self.encoded, self.count = parts, encoded, len(encoded.order)
        self.place = torch.from_numpy(np.repeat(texts, self.count))
        self.once, self.fused, self.anew, self.scores = 0.0, [], [], []
        pieces = [partial(self._anew, start) for start in range(0, len(self.place), 4 * BATCH)]
        middles = (np.arange(FUSION_CALLS) + 0.5) / FUSION_CALLS * self.count
        for number, middle in enumerate(middles.astype(int)):
            pieces.insert(number * len(pieces) // FUSION_CALLS, partial(self._fusion, int(middle)))
        pieces.insert(len(pieces) // 2, self._once)
        self.a_turn = -(-len(pieces) // max(1, self.count**2 // self._size(0)))
        self.pieces = iter(pieces)

    def turn(self) -> None:
        for piece in islice(self.pieces, self.a_turn):
            piece()

    def rest(self) -> None:
        for piece in self.pieces:
            piece()

    def _size(self, place: int) -> int:
        """Pairs with this text that the product gives to the fusion at once."""
        patches = (self.encoded.images.pixels.shape[-1] // 16) ** 2 + 1
        return TOKENS["cpu"] // (cut(self.encoded.texts, torch.tensor([place])).input_ids.shape[1] + patches)

    def _once(self) -> None:
        def everything() -> None:
            for chunk in torch.arange(self.count).split(BATCH):
                self.parts.model.embed_text(cut(self.encoded.texts, chunk))
                self.parts.model.embed_image(ImageInput(self.encoded.images.pixels[chunk]))

        self.once = timed(everything)[1]

    def _fusion(self, place: int) -> None:
        model, size = self.parts.model, self._size(place)
        text = model.embed_text(cut(self.encoded.texts, torch.tensor([place])))
        image = model.embed_image(ImageInput(self.encoded.images.pixels[:BATCH]))
        text = text.select(torch.zeros(size, dtype=torch.long))
        image = image.select(torch.arange(size) % len(image.hidden))
        self.fused.append(timed(lambda: model.fuse(text, image, needs={"pooled"}))[1] / size)

    def _anew(self, start: int) -> None:
        rows = self.place[start : start + 4 * BATCH]
        columns = torch.arange(start, start + len(rows)) % self.count
        text, image = cut(self.encoded.texts, rows), ImageInput(self.encoded.images.pixels[columns])
        model = self.parts.model

        def score() -> Tensor:
            return self.parts.match(
                model.fuse(model.embed_text(text), model.embed_image(image), needs={"pooled"}).pooled
            )

        found, seconds = timed(score)
        self.scores.append(found)
        self.anew.append(seconds)


def pair_costs(image_size: int, images: int = 16) -> tuple[float, float]:
    """Milliseconds of the towers and of the fusion for a pair of images of a size and texts of 12 pieces."""
    model = build(image_size).model
    shape = (images, 12)
    text = TextInput(
        torch.randint(5, VOCAB_SIZE, shape), torch.ones(shape, dtype=torch.bool), torch.zeros(shape).long()
    )
    image = ImageInput(torch.randint(0, 256, (images, 3, image_size, image_size), dtype=torch.uint8))
    for _ in range(2):  # the first one warms up
        both, towers = timed(lambda: (model.embed_text(text), model.embed_image(image)))
        _, fusion = timed(lambda both=both: model.fuse(*both, needs={"pooled"}))
    return 1000 * towers / images, 1000 * fusion / images


def processor_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def open_source(folder: str, file: str, image_size: int) -> Source:
    dataset = PairDataset(folder, [("coco", file)], training=False)
    return Source(dataset, make_transform("vit", image_size, patch_size=16, seed=SEED))


@torch.no_grad()
def report(folder: str, options: argparse.Namespace) -> None:
    size, count, many = options.image_size, options.images, options.many
    parts = build(size)
    source = open_source(folder, "few.arrow", size)
    encoded = ready(source)
    chosen = np.random.default_rng(SEED).choice(count, min(count, PAIRS // count), replace=False)
    compared = Compared(parts, encoded, chosen)
    load = os.getloadavg()[0]
    exact, exact_seconds = rank(parts, source, turn=compared.turn)
    compared.rest()
    scores = torch.cat(compared.scores).view(len(chosen), count).numpy()
    pair_seconds, lowest = sum(compared.anew) / scores.size, compared.once + count**2 * np.mean(compared.fused)
    numbers = encoded.order[chosen]
    true = scores[np.arange(len(numbers)), numbers][:, None]
    same = float(((scores >= true - TIED).sum(1) - 1 == exact.text_ranks[numbers]).mean())
    closest, closest_seconds = rank(parts, source, TOP)
    _, many_seconds = rank(parts, open_source(folder, "many.arrow", size), TOP)
    recall, recall_of_closest = (recalls(ranked)["recall_mean"] for ranked in (exact, closest))
    print("## Retrieval (`benchmarks/retrieval.py`)\n")
    print(
        f"{date.today()}, {processor_name()}, {options.threads} thread, load {load:.1f} to {os.getloadavg()[0]:.1f}, "
        f"torch {torch.__version__}, fp32, processor time."
    )
    print(f"DeiT-tiny + ELECTRA-small + fusion 6 x 256, random weights, images of {size} pixels.\n")
    print("| | measured | bar |\n| --- | --- | --- |")
    print(f"| exact ranking of {count} x {count} / (all encoded once + pairs x fusion alone) | "
          f"{exact_seconds / lowest:.2f} x | <= {BOUND_BAR} x |")  # fmt: skip
    print(f"| {count**2:,} pairs encoded anew (timed on {scores.size:,}) / exact ranking | "
          f"{count**2 * pair_seconds / exact_seconds:.2f} x | >= {ANEW_BAR} x |")  # fmt: skip
    print(f"| texts of the timed pairs with the same rank | {same:.0%} of {len(numbers)} | 100% |")
    print(f"| {many**2:,} pairs encoded anew / ranking of {many} x {many} with rerank_top_k={TOP} | "
          f"{many**2 * pair_seconds / many_seconds:.1f} x | >= {TOP_BAR} x |")  # fmt: skip
    print(f"| the same of {count} x {count} with rerank_top_k={TOP} | "
          f"{count**2 * pair_seconds / closest_seconds:.1f} x | |")  # fmt: skip
    print(f"| mean recall of {count} x {count}, exact and with rerank_top_k={TOP} (chance: random weights) | "
          f"{recall:.3f}, {recall_of_closest:.3f} ({recall_of_closest - recall:+.3f}) | |")  # fmt: skip
    print(f"| fusion alone for a pair, shortest to longest texts | "
          f"{', '.join(f'{1000 * each:.1f}' for each in compared.fused)} ms | |")  # fmt: skip
    print(f"| exact ranking of {count} x {count}; rerank_top_k={TOP} of {many} x {many} | "
          f"{exact_seconds:.0f} s, {many_seconds:.0f} s | |")  # fmt: skip
    for side in dict.fromkeys((size, 224)):
        towers, fusion = pair_costs(side)
        print(f"| towers, fusion for a pair with {side} pixels; (towers + fusion) / fusion | "
              f"{towers:.0f} ms, {fusion:.0f} ms; {1 + towers / fusion:.2f} x | |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64, help="images, and texts, that are ranked exactly")
    parser.add_argument("--many", type=int, default=250, help="images, and texts, of the ranking of candidates")
    parser.add_argument("--image_size", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        for file, images in (("few.arrow", options.images), ("many.arrow", options.many)):
            write_captions(Path(folder) / file, images=images)
        report(folder, options)


if __name__ == "__main__":
    main()
