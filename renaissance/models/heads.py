"""Poolers and task heads: small modules on top of what the fusion returns; and what their logits say."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from renaissance.core.types import IGNORED, Tokens


class Pooler(nn.Module):
    """One vector for a sequence: pool, project, tanh (BERT's pooler).

    Args:
        width: D.
        pooling: "first" token, "mean" over real tokens, or "last" real token.
    """

    def __init__(self, width: int, pooling: str):
        super().__init__()
        self.pooling = pooling
        self.dense = nn.Linear(width, width)

    def forward(self, tokens: Tokens) -> Tensor:
        """Tokens (B,N,D) -> (B,D)."""
        return torch.tanh(self.dense(pool(tokens, self.pooling)))


def pool(tokens: Tokens, pooling: str) -> Tensor:
    """One vector (B,D) of each sequence (B,N,D): "first" token, "last" real token, or "mean" over real tokens."""
    hidden, mask = tokens
    if pooling == "first":
        return hidden[:, 0]
    if pooling == "last":
        if mask is None:
            return hidden[:, -1]
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.long().sum(1) - 1]
    if mask is None:
        return hidden.mean(1)
    weights = mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weights).sum(1) / weights.sum(1)


class MlmHead(nn.Module):
    """BERT's masked-language-model head with a decoder of its own: D -> D (GELU, layer norm) -> V."""

    def __init__(self, width: int, vocab_size: int):
        super().__init__()
        self.transform = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.decoder = nn.Linear(width, vocab_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """(n,D) hidden states of masked positions -> (n,V) logits."""
        return self.decoder(self.norm(F.gelu(self.transform(hidden))))


class ItmHead(nn.Module):
    """Image-text matching: (B,Dp) -> (B,2) logits, class 1 = matched."""

    def __init__(self, pooled_size: int):
        super().__init__()
        self.classifier = nn.Linear(pooled_size, 2)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.classifier(pooled)

    def log_odds(self, pooled: Tensor) -> Tensor:
        """Matching scores of pairs: (n,Dp) -> (n,) float."""
        logits = self(pooled).float()
        return logits[:, 1] - logits[:, 0]


class ClassifierHead(nn.Sequential):
    """The classifier of downstream tasks (ViLT): (B,size) -> (B,hidden), layer norm, GELU -> (B,classes) logits."""

    def __init__(self, size: int, hidden: int, classes: int):
        super().__init__(nn.Linear(size, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, classes))


def predicted_classes(logits: Tensor) -> list[tuple[int, bool]]:
    """Argmax of each row of logits (B,C), and whether the row is free of NaN."""
    numbers = ~logits.isnan().any(-1)
    return list(zip(logits.argmax(-1).tolist(), numbers.tolist(), strict=True))


def confidences(logits: Tensor) -> list[float]:
    """Probability of the predicted class of each row of logits (B,C): the largest softmax."""
    return logits.float().softmax(-1).amax(-1).tolist()


def brier_scores(logits: Tensor, labels: Tensor) -> list[float | None]:
    """Squared errors of the probabilities of logits (B,C), summed over the classes: 0..2; None where labels (B,) are IGNORED.

    Source: Brier, Monthly Weather Review 1950.
    """
    probabilities = logits.float().softmax(-1)
    right = probabilities.gather(1, labels.clamp(min=0)[:, None]).squeeze(1)
    scores = (probabilities.square().sum(-1) - 2 * right + 1).tolist()
    return [None if label == IGNORED else score for label, score in zip(labels.tolist(), scores, strict=True)]
