"""Draws a heat map over the picture that it is of."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from renaissance.core.figures import AS_TEXT, said_missing_signs
from renaissance.inference.heat_map import HeatMap
from renaissance.inference.pictures import ImageLike, decoded

if TYPE_CHECKING:
    from renaissance.inference.loaded import Loaded

_LARGEST = (1600, 1600)  # pixels of the picture behind a heat map
_COLOURS = "viridis"  # even to the eye, to the colour-blind and in grey
_OPACITY = 0.65
_DOTS = 100  # of an inch
_HEIGHT, _NARROWEST, _WIDEST = 3.6, 1.8, 7.2  # inches of a picture


def explained(model: Loaded, image: ImageLike, *asked: Any) -> tuple[Image.Image, HeatMap]:
    """The picture of a heat map, and the map; `asked` as for `Loaded.explain`, which says what is refused."""
    heat = model.explain(image, *asked)
    picture = Image.fromarray(decoded(image).permute(1, 2, 0).numpy())
    picture.thumbnail(_LARGEST)
    return overlay(picture, heat), heat


def overlay(image: Image.Image, heat: HeatMap) -> Image.Image:
    """The picture, beside it the map over the same picture in grey, with a scale, and what it shows in words.

    Patches are drawn as they are, not smoothed: a model knows no more. What it did not see of the picture has no colour.
    """
    shown = image.convert("RGB")
    (width, height), box = shown.size, np.multiply(heat.box, (*shown.size, *shown.size))
    across = min(max(_HEIGHT * width / height, _NARROWEST), _WIDEST)
    with rc_context({"font.size": 10} | AS_TEXT), said_missing_signs():
        figure = Figure(figsize=(2 * across + 1.2, across * height / width + 0.7 if across == _WIDEST else _HEIGHT + 0.7),
                        dpi=_DOTS, layout="constrained")  # fmt: skip
        plain, mapped = figure.subplots(1, 2)
        smooth = "nearest" if width < _DOTS * across / 2 else "antialiased"
        plain.imshow(shown, interpolation=smooth)
        mapped.imshow(shown.convert("L"), cmap="gray", vmin=0, vmax=255, interpolation=smooth)
        drawn = mapped.imshow(
            heat.values,
            cmap=_COLOURS,
            alpha=_OPACITY,
            vmin=0,
            vmax=heat.values.max() or 1.0,
            extent=(box[0] - 0.5, box[2] - 0.5, box[3] - 0.5, box[1] - 0.5),
            interpolation="nearest",
        )
        for axes in (plain, mapped):
            axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
        scale = figure.colorbar(drawn, ax=mapped, format=lambda share, _: f"{share:.2g}", label="share of the map")
        scale.solids.set_alpha(1)
        figure.suptitle(heat.title)
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
    return Image.open(stream).convert("RGB")
