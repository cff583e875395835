"""Poolers and heads against BERT's, and against plain loops."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLMPredictionHead, BertPooler

from renaissance.core.types import Tokens
from renaissance.models.heads import ItmHead, MlmHead, Pooler, pool
from tiny_models import same, stirred

WIDTH, VOCAB = 24, 50
CONFIG = BertConfig(hidden_size=WIDTH, num_attention_heads=2, vocab_size=VOCAB)
HIDDEN = torch.randn(3, 6, WIDTH, generator=torch.Generator().manual_seed(0))
LENGTHS = (6, 4, 1)
MASK = torch.arange(6) < torch.tensor(LENGTHS)[:, None]


@pytest.mark.parametrize("masked", [True, False])
def test_each_way_of_pooling_reads_real_tokens_only(masked: bool) -> None:
    real = [row[: length if masked else 6] for row, length in zip(HIDDEN, LENGTHS, strict=True)]
    ways = {"first": lambda row: row[0], "last": lambda row: row[-1], "mean": lambda row: row.mean(0)}
    for pooling, of in ways.items():
        expected = torch.stack([of(row) for row in real])
        same(pool(Tokens(HIDDEN, MASK if masked else None), pooling), expected, 1e-6)


@torch.no_grad()
def test_a_pooler_of_the_first_token_is_berts() -> None:
    theirs, ours = stirred(BertPooler(CONFIG)), Pooler(WIDTH, "first")
    ours.load_state_dict(theirs.state_dict())
    same(ours(Tokens(HIDDEN, MASK)), theirs(HIDDEN), 1e-6)


@torch.no_grad()
def test_the_mlm_head_is_berts() -> None:
    theirs, ours = stirred(BertLMPredictionHead(CONFIG)), MlmHead(WIDTH, VOCAB)
    names = {"transform.dense.": "transform.", "transform.LayerNorm.": "norm.", "decoder.": "decoder."}
    renamed = {}
    for name, tensor in theirs.state_dict().items():
        for old, new in names.items():
            if name.startswith(old):
                renamed[new + name.removeprefix(old)] = tensor
    ours.load_state_dict(renamed)
    same(ours(HIDDEN[MASK]), theirs(HIDDEN)[MASK], 1e-5)


def test_the_itm_head_has_two_classes() -> None:
    head = stirred(ItmHead(2 * WIDTH))
    pooled = HIDDEN[:, :2].flatten(1)
    same(head(pooled), pooled @ head.classifier.weight.T + head.classifier.bias, 1e-5)
