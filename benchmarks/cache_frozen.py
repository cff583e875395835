"""What does it bring to compute the tokens of a frozen image tower once, and to read them in the place of the images?

    python benchmarks/cache_frozen.py [--seconds 10] [--rounds 3] [--cases small,base,itc,images]

One run on one thread, with one loader process, prints a table in Markdown: the product's own loader over made-up photographs
of 640 x 480 in 140 to 180 kB, random weights, both towers frozen, fp32. The bound is the same step on batches that are in
memory with their tokens: no tower for images, no loader. All variants take turns in each round; ratios are medians over rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from transformers import DeiTConfig, ElectraConfig, ViTConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from coco_like import MAX_TEXT_LEN, VOCAB_SIZE, photograph, tokenizer, write_captions  # noqa: E402
from pretrain_step import processor_name  # noqa: E402
from step_models import DEIT_TINY, MEAN, SEED, STD, Model, make_optimizer, our_losses  # noqa: E402

from renaissance.core.types import Batch, TextInput, Tokens  # noqa: E402
from renaissance.data.collate import Collate, Samples, Source, label_targets  # noqa: E402
from renaissance.data.dataset_specs import IMAGE, Column  # noqa: E402
from renaissance.data.loader import StepLoader  # noqa: E402
from renaissance.data.masking import MlmMasker  # noqa: E402
from renaissance.data.negatives import ContrastiveGroups, FalseImages  # noqa: E402
from renaissance.data.pairs import PairDataset  # noqa: E402
from renaissance.data.sampler import Pool, TrainSteps  # noqa: E402
from renaissance.data.samples import SampleDataset, TaskDataset  # noqa: E402
from renaissance.data.text import vocabulary  # noqa: E402
from renaissance.data.transforms import make_transform  # noqa: E402
from renaissance.models import backbones  # noqa: E402
from renaissance.models.embeddings import Normalize  # noqa: E402
from renaissance.models.fusion import FusionStack  # noqa: E402
from renaissance.models.initialization import initialize  # noqa: E402
from renaissance.models.two_tower import TwoTower  # noqa: E402
from renaissance.tasks import Context, task_class  # noqa: E402
from renaissance.tasks.images import Images  # noqa: E402
from renaissance.training.frozen_tokens import TokenCache, token_files  # noqa: E402

CLASSES = tuple(map(str, range(10)))
SHARE_BAR, GAIN_BAR = 0.9, 3
ELECTRA_BASE = {"embedding_size": 768, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
PLAIN, CACHED, HALF, BOUND = "as it is", "cache_frozen", "cache_precision=16", "the bound"


class Case(NamedTuple):
    """What is trained. Attributes: title; tasks; base, whether of the base size; batch; bars: of the bound, of the gain."""

    title: str
    tasks: tuple[str, ...]
    base: bool
    batch: int
    share: float | None = None
    gain: float | None = None


CASES = {
    "small": Case("MLM + ITM, `paper_small_frozen_both`", ("mlm", "itm"), False, 16, share=SHARE_BAR),
    "base": Case("MLM + ITM, `paper_base_frozen_both`", ("mlm", "itm"), True, 4, share=SHARE_BAR),
    "itc": Case("ITC alone, DeiT-tiny + ELECTRA-small", ("itc",), False, 32, gain=GAIN_BAR),
    "images": Case("classes of images, DeiT-tiny", ("images",), False, 32, gain=GAIN_BAR),
}


def build_model(case: Case) -> Model:
    torch.manual_seed(SEED)
    image = ViTConfig() if case.base else DeiTConfig(**DEIT_TINY)
    text = ElectraConfig(**(ELECTRA_BASE if case.base else {}))
    fusion = FusionStack("shared", *((10, 768, 12) if case.base else (6, 256, 4)), mlp_ratio=4, drop_rate=0.1)
    towers = backbones.build_text_tower(text, weights=None), backbones.build_vision_tower(image, weights=None)
    model = TwoTower(*towers, fusion, "double", Normalize(MEAN, STD))
    initialize(model)
    model.freeze(("text_tower", "image_tower"))
    settings = SimpleNamespace(
        objectives=SimpleNamespace(loss_names={name: 1.0 for name in case.tasks}, image_only=True),
        model=SimpleNamespace(fusion=True),
        data=SimpleNamespace(datasets=["classes"]),
    )
    heads = nn.ModuleDict(
        {name: task_class(name)(model, Context(settings, VOCAB_SIZE, CLASSES)) for name in case.tasks}
    )
    initialize(heads)
    return Model(model, heads)


def write_classes(path: Path, images: int) -> None:
    generator = np.random.default_rng(SEED)
    labels = (np.arange(images) % len(CLASSES)).tolist()
    table = pa.table({"image": [photograph(generator) for _ in range(images)], "label": labels})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def open_samples(case: Case, folder: str) -> Samples:
    if case.tasks != ("images",):
        return PairDataset(folder, [("coco", "coco.arrow")], training=True)
    columns = (IMAGE, Column("label", "int64"), Column("image_id", "string", needed=False))
    stored = SampleDataset(folder, [("classes", "classes.arrow")], columns, "")
    return TaskDataset(stored, read_class, "label")


def read_class(sample: Any) -> Any:
    return Images.read(CLASSES, sample)


def open_source(case: Case, folder: str) -> Source:
    return Source(open_samples(case, folder), make_transform("vit", 224, patch_size=16, seed=SEED))


def open_loader(case: Case, source: Source, workers: int = 1, steps: int = 1 << 20) -> StepLoader:
    pieces = tokenizer()
    builders = {
        "mlm": MlmMasker(vocabulary(pieces), 0.15, True, SEED), "itm": FalseImages(SEED, case.batch, 0),
        "itc": ContrastiveGroups(case.batch), "images": label_targets,
    }  # fmt: skip
    collate = Collate(pieces, MAX_TEXT_LEN, case.batch, {name: builders[name] for name in case.tasks}, source)
    order = TrainSteps(Pool(len(source.dataset)), case.batch, case.batch, 0, 1, SEED, 0, steps)
    return StepLoader(order, collate, workers, pin_memory=False)


def fill(case: Case, model: TwoTower, source: Source, folder: str, bits: int) -> float:
    """Makes the tokens, which the source has from then on. Returns their bytes for each image."""
    [files] = token_files(model, [source], Path(folder) / "tokens", "benchmark", bits)
    TokenCache([source], [files], 1, 64).fill(model, torch.device("cpu"))
    return files[0].nbytes[0] / len(files[0].images_of(0))


class Timed(NamedTuple):
    """Samples a second, by the clock and by this process's time of the processor; the loss of the first step."""

    rate: float
    by_processor: float
    loss: float


def timed(items: Iterable[list[Batch]], step: Callable[[Batch], float], seconds: float) -> Timed:
    """Takes steps for so long, two at least; the first warms up and is left out."""
    items, samples = iter(items), 0
    loss = step(next(items)[0])
    began, processor = time.perf_counter(), time.process_time()
    while samples == 0 or time.perf_counter() - began < seconds:
        [batch] = next(items)
        step(batch)
        samples += len(batch.ids)
    return Timed(samples / (time.perf_counter() - began), samples / (time.process_time() - processor), loss)


def stepper(model: Model) -> Callable[[Batch], float]:
    """Takes an optimizer step on a batch, and returns the sum of the losses; the same dropout for the first of each."""
    optimizer = make_optimizer(model, fused=True)

    def step(batch: Batch) -> float:
        loss = sum(our_losses(model, batch).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


@contextlib.contextmanager
def texts_known(model: TwoTower, batches: list[list[Batch]]) -> Iterator[None]:
    """Whole texts of these batches have their tokens too, masked ones are encoded: what keeping texts as well would bring."""
    real, known = model.unimodal_text, {}
    with torch.no_grad():
        for [batch] in batches:
            known[id(batch.text.input_ids)] = real(batch.text)

    def unimodal_text(text: TextInput) -> Tokens:
        return known.get(id(text.input_ids)) or real(text)

    with mock.patch.object(model, "unimodal_text", unimodal_text):
        yield


def in_turns(batches: list[list[Batch]]) -> Iterator[list[Batch]]:
    while True:
        yield from batches


def loader_rates(case: Case, source: Source, seconds: float) -> tuple[float, float]:
    """Samples a second of the loader alone: of one process by the clock, and in this process by the processor's time."""
    loader = open_loader(case, source)
    by_clock = timed(loader, lambda _: 0.0, seconds).rate
    loader.kill()
    items = iter(open_loader(case, source, workers=0))
    next(items)
    began, samples = time.process_time(), 0
    while time.process_time() - began < seconds / 2:
        samples += len(next(items)[0].ids)
    return by_clock, samples / (time.process_time() - began)


def measure(case: Case, folder: str, options: argparse.Namespace) -> list[str]:
    """The lines of the table of one case."""
    model = build_model(case)
    first_loss: dict[str, float] = {}
    sources = {name: open_source(case, folder) for name in (PLAIN, CACHED, HALF)}
    sizes = {name: fill(case, model.model, sources[name], folder, bits) for name, bits in ((CACHED, 32), (HALF, 16))}
    loader = open_loader(case, sources[CACHED], workers=0)
    ready = [item for item, _ in zip(loader, range(4), strict=False)]
    rates: dict[str, list[Timed]] = {name: [] for name in (*sources, BOUND, "texts")}
    for _ in range(options.rounds):
        for name in rates:
            loader = open_loader(case, sources[name]) if name in sources else None
            torch.manual_seed(SEED)
            weights = [{key: value.clone() for key, value in part.state_dict().items()} for part in model]
            step = stepper(model)
            with texts_known(model.model, ready) if name == "texts" else contextlib.nullcontext():
                taken = timed(loader or in_turns(ready), step, options.seconds)
            for part, before in zip(model, weights, strict=True):
                part.load_state_dict(before)
            rates[name].append(taken)
            first_loss.setdefault(name, taken.loss)
            if loader is not None:
                loader.kill()
            print(f"{case.title}: {name} {taken.rate:.2f} samples/s", file=sys.stderr, flush=True)

    def ratios(*names: str, to: str) -> str:
        """By the clock, and in brackets by the processor's time."""
        found = []
        for name in names:
            pairs = list(zip(rates[name], rates[to], strict=True))
            clock, processor = (
                statistics.median(one[which] / other[which] for one, other in pairs) for which in (0, 1)
            )
            found.append(f"{clock:.2f} ({processor:.2f})")
        return ", ".join(found)

    def row(what: str, value: str, bar: str = "") -> str:
        return f"| {case.title if what == 'samples/s' else ''} | {what} | {value} | {bar} |"

    alone = {name: loader_rates(case, source, options.seconds / 2) for name, source in sources.items()}
    median = {name: statistics.median(taken.rate for taken in of) for name, of in rates.items()}
    differences = [abs(first_loss[name] - first_loss[PLAIN]) / abs(first_loss[PLAIN]) for name in (CACHED, HALF)]
    gain_bar = f">= {case.gain} x" if case.gain else ""
    return [
        row("samples/s", ", ".join(f"{name} {median[name]:.3g}" for name in (*sources, BOUND))),
        row("x as it is, 32 and 16 bits, the bound", ratios(CACHED, HALF, BOUND, to=PLAIN), gain_bar),
        row("of the bound, 32 and 16 bits", ratios(CACHED, HALF, to=BOUND), f">= {case.share}" if case.share else ""),
        row("the bound with whole texts kept too", ratios("texts", to=BOUND)),
        row("loader alone, one process", ", ".join(f"{alone[name][0]:.0f}" for name in sources) + " samples/s"),
        row("loader alone, by processor time", ", ".join(f"{alone[name][1]:.0f}" for name in sources) + " samples/s"),
        row("bytes an image", ", ".join(f"{size:,.0f}" for size in sizes.values())),
        row("first loss differs by", ", ".join(f"{each:.0e}" for each in differences), "0 or rounding, 1e-3"),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10, help="of each variant in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--cases", default=",".join(CASES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        write_captions(Path(folder) / "coco.arrow", images=options.images)
        write_classes(Path(folder) / "classes.arrow", options.images)
        for name in options.cases.split(","):
            lines += measure(CASES[name], folder, options)
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print("## Frozen towers once (`benchmarks/cache_frozen.py`)\n")
    print(f"{date.today()}, {processor_name() or platform.processor()}, 1 thread and 1 loader process, load {load},")
    print(f"torch {torch.__version__}, fp32, {options.rounds} rounds of {options.seconds:.0f} seconds a variant.\n")
    print("| | | measured | bar |\n| --- | --- | --- | --- |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
