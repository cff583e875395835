"""The two models that benchmarks take steps of, and the batches of these steps.

Both have random weights and an ELECTRA-small: as text tower beside DeiT-tiny, under a fusion of 6 x 256, or as the blocks of a
one-tower model.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DeiTConfig, ElectraConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from coco_like import MAX_TEXT_LEN, VOCAB_SIZE, tokenizer  # noqa: E402

from renaissance.core.types import Batch  # noqa: E402
from renaissance.data.collate import Collate, Source  # noqa: E402
from renaissance.data.loader import StepLoader  # noqa: E402
from renaissance.data.masking import MlmMasker  # noqa: E402
from renaissance.data.negatives import FalseImages  # noqa: E402
from renaissance.data.pairs import PairDataset  # noqa: E402
from renaissance.data.sampler import Pool, TrainSteps  # noqa: E402
from renaissance.data.text import vocabulary  # noqa: E402
from renaissance.data.transforms import make_transform  # noqa: E402
from renaissance.models import backbones  # noqa: E402
from renaissance.models.embeddings import Normalize, PatchEmbeddings  # noqa: E402
from renaissance.models.fusion import FusionStack  # noqa: E402
from renaissance.models.initialization import initialize  # noqa: E402
from renaissance.models.one_tower import OneTower  # noqa: E402
from renaissance.models.two_tower import TwoTower  # noqa: E402
from renaissance.tasks import Context, Encodings, task_class  # noqa: E402

TWO_TOWER, ONE_TOWER = KINDS = ("two-tower", "one-tower")
DESCRIPTIONS = {TWO_TOWER: "DeiT-tiny + ELECTRA-small + fusion 6 x 256", ONE_TOWER: "the blocks of ELECTRA-small"}
TASKS = ("mlm", "itm")
SEED = 1
IMAGE_SIZE, PATCH_SIZE = 224, 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DEIT_TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
HALVES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Model(NamedTuple):
    """A model with its heads; `parameters` of both."""

    model: TwoTower | OneTower
    heads: nn.ModuleDict

    def parameters(self) -> list[nn.Parameter]:
        return [p for part in self for p in part.parameters() if p.requires_grad]


def build_model(kind: str = TWO_TOWER) -> Model:
    torch.manual_seed(SEED)
    if kind == TWO_TOWER:
        text = backbones.build_text_tower(ElectraConfig(), weights=None, vocab_size=VOCAB_SIZE)
        image = backbones.build_vision_tower(DeiTConfig(**DEIT_TINY), weights=None)
        fusion = FusionStack("shared", num_layers=6, width=256, heads=4, mlp_ratio=4, drop_rate=0.1)
        model = TwoTower(text, image, fusion, "double", Normalize(MEAN, STD))
    else:
        blocks, text = backbones.build_blocks(ElectraConfig(), weights=None, vocab_size=VOCAB_SIZE)
        patches = PatchEmbeddings(blocks.hidden_size, IMAGE_SIZE, PATCH_SIZE, 0.1)
        model = OneTower(blocks, text, patches, "double", Normalize(MEAN, STD))
    initialize(model)
    model.token_types.copy_image_row()
    heads = nn.ModuleDict({name: task_class(name)(model, Context(None, VOCAB_SIZE, None)) for name in TASKS})
    initialize(heads)
    return Model(model, heads)


def write_encoders(folder: Path) -> None:
    """The folders `text` and `image` of the two-tower model's encoders, without weights, for the program's own commands."""
    ElectraConfig(vocab_size=VOCAB_SIZE).save_pretrained(folder / "text")
    tokenizer().save_pretrained(folder / "text")
    DeiTConfig(**DEIT_TINY).save_pretrained(folder / "image")


def autocast(device: str, precision: str) -> contextlib.AbstractContextManager[Any]:
    """What Lightning's `precision` is around a forward pass."""
    return torch.autocast(device, HALVES[precision]) if precision in HALVES else contextlib.nullcontext()


def open_loader(folder: str, batch: int, steps: int) -> StepLoader:
    """The product's own loader, in this process, over a file of made-up photographs."""
    pieces = tokenizer()
    target_builders = {"mlm": MlmMasker(vocabulary(pieces), 0.15, True, SEED), "itm": FalseImages(SEED, batch, 0)}
    dataset = PairDataset(folder, [("coco", "coco.arrow")], training=True)
    source = Source(dataset, make_transform("vit", IMAGE_SIZE, patch_size=PATCH_SIZE, seed=SEED))
    order = TrainSteps(Pool(len(dataset)), batch, batch, 0, 1, SEED, 0, steps)
    return StepLoader(order, Collate(pieces, MAX_TEXT_LEN, batch, target_builders, source), 0, pin_memory=False)


def our_losses(model: Model, batch: Batch, encodings: type[Encodings] = Encodings) -> dict[str, Tensor]:
    """What `VisionLanguageModule` does with a step of one micro-batch: sums over counts."""
    shared = encodings(model.model, batch)
    outputs = {name: task(shared, batch.targets[name]) for name, task in model.heads.items()}
    return {name: output.loss / output.count for name, output in outputs.items()}


def make_optimizer(model: Model, fused: bool) -> torch.optim.Optimizer:
    how = {"fused": True} if fused else {"foreach": True}
    return torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.98), weight_decay=0.01, **how)
