"""The pretraining step as the ancestors (ViLT, METER) take it, written plainly: what `pretrain_step.py` compares with.

Both objectives run the whole model for themselves, so each step passes every image and every text through its tower
twice; texts come padded to the maximum length; attention makes queries, keys and values by three products and writes
out its scores, probabilities and dropped-out probabilities; the last layer computes every token; the vocabulary is
decoded at every position.

It reads the weights of our own model, so that losses can be compared: the parameters are used, never a `forward` of
ours (heads apart). Hugging Face's encoders, blocks and word embeddings are run as they are; the caller sets them to eager
attention and to torch's dropout.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from renaissance.core.types import Batch, ItmTargets, MlmTargets, TextInput
from renaissance.models.attention import Attention
from renaissance.models.fusion import FeedForward, SharedLayer
from renaissance.models.one_tower import OneTower
from renaissance.models.two_tower import TwoTower


def losses(model: TwoTower | OneTower, heads: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
    """The mean loss of each objective, each by a forward pass of its own.

    Args:
        model: poolers double; two towers with `fusion=shared`, or one with patch embeddings of its own.
        heads: of the tasks mlm and itm.
        batch: texts padded to the maximum length.
    """
    mlm: MlmTargets = batch.targets["mlm"]
    itm: ItmTargets = batch.targets["itm"]
    pixels = batch.images.pixels
    forward = _one_tower if isinstance(model, OneTower) else _two_tower
    text, _ = forward(model, mlm.input_ids, batch.text.attention_mask, pixels)
    logits = heads["mlm"].head(text)  # (B,L,V)
    text, image = forward(model, batch.text.input_ids, batch.text.attention_mask, pixels[itm.image_index])
    pooled = torch.cat([_pooled(model.text_pooler, text), _pooled(model.image_pooler, image)], dim=-1)
    return {
        "mlm": F.cross_entropy(logits.flatten(0, 1), mlm.labels.flatten(), ignore_index=-100),
        "itm": F.cross_entropy(heads["itm"].head(pooled), itm.labels),
    }


def _two_tower(model: TwoTower, input_ids: Tensor, mask: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids (B,L), mask (B,L), pixels (B,3,H,W) -> text (B,L,D) and image (B,P,D) after the fusion."""
    text = model.text_tower.model(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state
    scale, shift = model.normalize.scale, model.normalize.shift
    image = model.image_tower.model(pixel_values=pixels.float() * scale + shift).last_hidden_state
    types = model.token_types.embedding.weight
    text, image = model.text_projection(text) + types[0], model.image_projection(image) + types[1]
    text_bias = torch.zeros(mask.shape, dtype=text.dtype).masked_fill(~mask, torch.finfo(text.dtype).min)[:, None, None]
    image_bias = torch.zeros(len(image), 1, 1, image.shape[1])
    for layer in model.fusion.layers:
        text, image = _layer(layer, text, text_bias, image, image_bias)
    return text, image


def _one_tower(model: OneTower, input_ids: Tensor, mask: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """As `_two_tower`: word pieces and patches, joined, through all blocks (ViLT)."""
    text = model.text_embeddings(TextInput(input_ids, mask, torch.zeros_like(input_ids)))
    patches = model.image_embeddings.projection(pixels.float() * model.normalize.scale + model.normalize.shift)
    patches = (patches + model.image_embeddings.position).flatten(2).transpose(1, 2)
    first = (model.image_embeddings.cls_token + model.image_embeddings.cls_position).expand(len(patches), -1, -1)
    image = model.image_embeddings.norm(torch.cat([first, patches], dim=1))
    image = F.dropout(image, model.image_embeddings.dropout.p, model.training)
    types = model.token_types.embedding.weight
    hidden = torch.cat([text + types[0], image + types[1]], dim=1)
    bias = torch.zeros(hidden.shape[:2], dtype=hidden.dtype)
    bias[:, : mask.shape[1]].masked_fill_(~mask, torch.finfo(hidden.dtype).min)
    for layer in model.blocks.layers:
        output = layer(hidden, attention_mask=bias[:, None, None])
        hidden = output if isinstance(output, Tensor) else output[0]
    hidden = model.blocks.norm(hidden)
    return hidden[:, : mask.shape[1]], hidden[:, mask.shape[1] :]


def _layer(
    layer: SharedLayer, text: Tensor, text_bias: Tensor, image: Tensor, image_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """LXMERT's cross-modality layer; a bias (B,1,1,N) is 0 on real tokens and very low on padding."""
    crossed_text = _attention(layer.cross, text, image, image_bias)
    crossed_image = _attention(layer.cross, image, text, text_bias)
    text = _attention(layer.text.attention, crossed_text, crossed_text, text_bias)
    image = _attention(layer.image.attention, crossed_image, crossed_image, image_bias)
    return _feed_forward(layer.text.feed_forward, text), _feed_forward(layer.image.feed_forward, image)


def _attention(module: Attention, hidden: Tensor, other: Tensor, bias: Tensor) -> Tensor:
    """Queries of (B,N,D) over keys and values of (B,K,D), with residual and layer norm."""
    weights, biases = module.qkv.weight.chunk(3), module.qkv.bias.chunk(3)
    query, key, value = (
        F.linear(source, weight, each).unflatten(-1, (module.heads, -1)).transpose(1, 2)
        for source, weight, each in zip((hidden, other, other), weights, biases, strict=True)
    )
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + bias
    shares = F.dropout(scores.softmax(dim=-1), module.dropout.p, module.training)
    mixed = (shares @ value).transpose(1, 2).flatten(2)
    return _residual(module.output, mixed, hidden)


def _feed_forward(module: FeedForward, hidden: Tensor) -> Tensor:
    return _residual(module.output, F.gelu(module.dense(hidden)), hidden)


def _residual(module: nn.Module, inner: Tensor, hidden: Tensor) -> Tensor:
    dropped = F.dropout(module.dense(inner), module.dropout.p, module.training)
    return module.norm(dropped + hidden)


def _pooled(pooler: nn.Module, hidden: Tensor) -> Tensor:
    return torch.tanh(pooler.dense(hidden[:, 0]))
