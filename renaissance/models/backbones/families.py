"""What differs between Hugging Face families, as data: one row a model type.

A row says which transformers class builds the tower, which of its parts are kept, and, where the family can be a
one-tower model, where its blocks are. The code in the sibling files knows no family by name; a new family is a new row.
"""

from __future__ import annotations

from .family import IMAGE, TEXT, Family, Stack
from .text_families import REFUSED_TEXT, TEXT_FAMILIES
from .vision_families import REFUSED_VISION, VISION_FAMILIES

__all__ = ["DUAL", "FAMILIES", "IMAGE", "REFUSED", "TEXT", "Family", "Stack"]

FAMILIES: dict[str, Family] = TEXT_FAMILIES | VISION_FAMILIES
REFUSED: dict[str, str] = REFUSED_TEXT | REFUSED_VISION

_HALVES = {TEXT: "text_config", IMAGE: "vision_config"}
# Models of two halves: where their configurations keep each. A half is a family of its own above.
DUAL: dict[str, dict[str, str]] = {
    **dict.fromkeys(("align", "blip", "chinese_clip", "clip", "clipseg", "groupvit"), _HALVES),
    **dict.fromkeys(("metaclip_2", "owlv2", "owlvit", "siglip", "siglip2", "tipsv2", "xclip"), _HALVES),
    "aimv2": {IMAGE: "vision_config"},
    "blip-2": {IMAGE: "vision_config"},
    "flava": {TEXT: "text_config", IMAGE: "image_config"},
    "git": {IMAGE: "vision_config"},
    "idefics3": {IMAGE: "vision_config"},
    "internvl": {IMAGE: "vision_config"},
    "smolvlm": {IMAGE: "vision_config"},
}
