"""Text and image towers: any Hugging Face encoder as a module that gives `Tokens`."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput

from renaissance.core.types import TextInput, Tokens

from .attention import NAME, layer_mask
from .build import BuiltEncoder, build_encoder, final_norm
from .dimensions import encoder_dimensions, width_of
from .facts import facts_of
from .patches import keep_patches, needs_all_patches


class Tower(nn.Module):
    """Base class of text and image towers.

    Attributes:
        hidden_size: width of its tokens.
        pooling: how a sequence is summarised: "first" token, "mean" over real tokens, or "last" real token.
        config: rebuilds this tower (`config.to_dict()` is stored in a checkpoint).
        unused: names of pretrained weights that the tower does not use (heads, poolers), for the report.
    """

    def __init__(self, encoder: BuiltEncoder):
        super().__init__()
        self.model, self.config, self.unused = encoder.model, encoder.config, encoder.unused
        self.hidden_size = width_of(encoder.config, encoder.family)
        self.pooling = encoder.family.pooling


class TextTower(Tower):
    """A text encoder. Attribute: takes_types, whether it distinguishes the two sentences of a pair."""

    def __init__(self, encoder: BuiltEncoder):
        super().__init__(encoder)
        takes = inspect.signature(self.model.forward).parameters
        # One row of token types distinguishes nothing.
        self.takes_types = "token_type_ids" in takes and getattr(self.config, "type_vocab_size", 0) > 1
        self._layer_mask = encoder.family.layer_mask and self.model.config._attn_implementation != NAME

    def forward(self, text: TextInput) -> Tokens:
        """Encodes texts (B, L). Returns hidden (B, L, D); what padding holds changes no real token."""
        mask = text.attention_mask.long()
        if self._layer_mask:
            dtype = next(self.model.parameters()).dtype
            mask = layer_mask(mask, self.model.config, dtype).expand(-1, -1, mask.shape[1], -1)
        inputs = {"input_ids": text.input_ids, "attention_mask": mask}
        if self.takes_types:
            inputs["token_type_ids"] = text.token_type_ids
        return Tokens(self.model(**inputs).last_hidden_state, text.attention_mask.bool())


class VisionTower(Tower):
    """An image encoder.

    Attributes:
        needs_all_patches: why no patch can be left out; "" where the embeddings add all that says where a patch lies.
        norm_path: of the norm that is applied to all tokens in addition; None for none.
    """

    def __init__(self, encoder: BuiltEncoder):
        super().__init__(encoder)
        self.norm_path = final_norm(encoder.family) if facts_of(encoder.config).final_norm else None
        self._patch_size = encoder_dimensions(encoder.config)["patch_size"]
        self._kept: tuple[Tensor, int] | None = None  # of the images that the model is at
        self.needs_all_patches = needs_all_patches(self.model, encoder.family, self._patch_size)
        if not self.needs_all_patches:
            self.model.embeddings.register_forward_hook(self._leave_out)

    def forward(self, pixels: Tensor, kept: Tensor | None = None) -> Tokens:
        """Encodes normalised images (B, 3, H, W). Returns hidden (B, N, D), mask None: all tokens are real.

        N counts a flat family's CLS and register tokens; a feature map (B, D, h, w) becomes N = h * w tokens.

        Args:
            kept: (B, K) the patches to encode, or None for all, where `needs_all_patches` is "".
        """
        if kept is not None:
            self._kept = kept, (pixels.shape[2] // self._patch_size) * (pixels.shape[3] // self._patch_size)
        hidden = self.model(pixel_values=pixels).last_hidden_state
        self._kept = None
        if self.norm_path is not None:  # transformers applies it to the pooled token alone
            hidden = self.model.get_submodule(self.norm_path)(hidden)
        if hidden.ndim == 4:
            hidden = hidden.flatten(2).transpose(1, 2)
        return Tokens(hidden, None)

    def _leave_out(self, module: nn.Module, inputs: Any, embedded: Tensor | ModelOutput) -> Tensor | ModelOutput:
        """Between the embeddings and the blocks."""
        if self._kept is None:
            return embedded
        if isinstance(embedded, ModelOutput):  # DPT's
            return type(embedded)(keep_patches(embedded[0], *self._kept))
        return keep_patches(embedded, *self._kept)


def build_text_tower(config: PreTrainedConfig, **options: Any) -> TextTower:
    """Builds a text tower. Arguments and errors as of `build_encoder`."""
    return TextTower(build_encoder(config, "text_encoder", **options))


def build_vision_tower(config: PreTrainedConfig, **options: Any) -> VisionTower:
    """Builds a tower for square images. Arguments and errors as of `build_encoder`."""
    return VisionTower(build_encoder(config, "image_encoder", **options))
