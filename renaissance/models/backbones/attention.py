"""Attention and dropout of a family's own layers: on CPUs from few random bits, as in the fusion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function, sdpa_mask

from renaissance.models.attention import Dropout, is_plain_faster, mask_bias, plain_attention

NAME = "sdpa_renaissance"  # by which transformers' models find `attend`
_MATTER = ("is_causal", "position_bias", "softcap")  # options that "sdpa" reads


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' "sdpa", but by plain products where these take less time.

    Args:
        module: the family's attention.
        query, key, value: (B,h,N,d).
        attention_mask: bool, True where a key is attended to, or numbers that are added to the scores; None = all are.
        dropout: of the probabilities. scaling: of the scores, 1/sqrt(d) where None.
        options: what some families add; "sdpa" takes those of `_MATTER`, which are left to it.

    Returns:
        (B,N,h,d), None.
    """
    plain = not any(options.get(name) is not None for name in _MATTER) and query.shape[1] == key.shape[1]
    causal = attention_mask is None and getattr(module, "is_causal", True)
    if not plain or causal or not is_plain_faster(query, key, dropout):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        attention_mask = mask_bias(attention_mask, query.dtype)
    query = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    return plain_attention(query, key, value, attention_mask, dropout).transpose(1, 2), None


def padding_mask(*, mask_function: Callable[..., Any], attention_mask: Tensor | None = None, **options: Any) -> Any:
    """transformers' "sdpa", which asks first whether any token is padding; that makes the processor wait for the device.

    Args:
        mask_function: which keys a query may see. attention_mask: (B,N), padding on the right. options: as of "sdpa".
    """
    if mask_function is bidirectional_mask_function and attention_mask is not None:
        return attention_mask.bool()[:, None, None]
    if mask_function is causal_mask_function:
        attention_mask = None  # no real token sees what comes after it
    elif attention_mask is not None:
        options["allow_is_bidirectional_skip"] = False
    return sdpa_mask(mask_function=mask_function, attention_mask=attention_mask, **options)


def layer_mask(mask: Tensor | None, config: PreTrainedConfig, dtype: torch.dtype) -> Tensor | None:
    """A mask of padding, (B,N), as a family's layers take it: (B,1,1,N), True on real tokens, or what eager attention adds."""
    if mask is None:
        return None
    mask = mask.bool()[:, None, None]
    return mask_bias(mask, dtype) if config._attn_implementation == "eager" else mask


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, padding_mask)


def swap_dropout(model: nn.Module) -> None:
    """Replaces each `nn.Dropout` of a family by the fusion's."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
