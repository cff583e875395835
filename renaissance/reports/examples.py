"""The examples of a split that say most about a run, with their pictures as small data URIs."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from renaissance.core.errors import UserError, first_line
from renaissance.core.types import Example
from renaissance.data.pixels import open_image, rgb
from renaissance.evaluation.intervals import SHOWN_POSITION
from renaissance.evaluation.runs import FinishedRun
from renaissance.settings.resolver import ConfigResolver

SHOWN = 24  # examples of a kind
SIDES = (200, 128)  # longest sides of a picture, pixels; the second where the first makes a large file
MOST_BYTES = 13_000  # of a picture, so that those of a page are less than 5 MB
QUALITY = 75  # of JPEG
LONGEST_TEXT = 300  # characters
_RETRIEVAL = {"rank", "first_ids", "first_images", "first_scores"}  # columns of texts that rank pictures


class Box(NamedTuple):
    """A box on a picture. Attributes: kind ("right", "wrong" or "other"); x, y, width, height, as shares of the picture."""

    kind: str
    x: float
    y: float
    width: float
    height: float


class Picture(NamedTuple):
    """A picture of an example. Attributes: source, a data URI; width, height of it; alt; label, shown below it; boxes."""

    source: str
    width: int
    height: int
    alt: str
    label: str = ""
    boxes: Sequence[Box] = ()


class Card(NamedTuple):
    """An example as it is shown.

    Attributes:
        id: its id. text: what the model read. pictures: what it saw, or why they are not here.
        answers: (what, value, class of style) of prediction, right answer and confidence.
    """

    id: str
    text: str
    pictures: list[Picture | str]
    answers: list[tuple[str, str, str]]


class SplitSource:
    """The samples of a split, as a run has read them.

    Args:
        run: a finished run. task, split: whose predictions are shown.
        data_root: the folder of the arrow files, None = as the run has it.

    Raises:
        UserError: the data is not there any more, or is other data.
    """

    def __init__(self, run: FinishedRun, task: str, split: str, data_root: str | None = None):
        # Here, because it imports torch.
        from renaissance.data.datasets import open_pairs
        from renaissance.tasks import downstream_task, task_class

        own = {"eccv_caption": False} | ({"data_root": data_root} if data_root else {})  # samples alone
        resolver = ConfigResolver.from_checkpoint(run.settings, run.settings.get("load_path"), **own)
        settings = resolver.finalize()
        names, data = settings.objectives.loss_names, settings.data
        if reading := downstream_task(names):
            labels = task_class(reading).label_names(settings)
            self._samples = task_class(reading).open(settings, split, labels)
        else:
            columns = {"image_column": data.image_column, "caption_column": data.caption_column}
            self._samples = open_pairs(data.datasets, split, data.data_root, first=data.first_datasets, **columns)
        if self._samples is None or run.unlike(split, self._samples.fingerprint(), data.eval_limit):
            raise UserError(f"data_root={data.data_root} holds other data of {split} than the run was evaluated on.")

    def example(self, position: int) -> Example:
        """The sample at a position, as the task has read it."""
        return self._samples[int(position)]


def thumbnail(encoded: bytes, of: str, label: str = "", boxes: Iterable[Box] = ()) -> Picture | str:
    """An image, made small: JPEG, or PNG where it is tiny already; a sentence where it cannot be decoded.

    Args:
        encoded: the file's bytes. of: the text that it belongs to. label: which picture of the text it is. boxes: in its pixels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # oddities of a file
        try:
            whole = Image.fromarray(rgb(open_image(encoded)))
        except Exception:  # foreign bytes make Pillow fail in any way they like
            return "This picture cannot be decoded."
    for side in SIDES:
        small = whole.copy()
        small.thumbnail((side, side))
        kind = "PNG" if max(small.size) < SIDES[-1] / 2 else "JPEG"
        stream = io.BytesIO()
        small.save(stream, kind, quality=QUALITY, optimize=True)
        if stream.tell() <= MOST_BYTES:
            break
    source = f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
    scale = np.array([whole.width, whole.height] * 2)
    shares = [Box(box.kind, *(np.array(box[1:]) / scale).tolist()) for box in boxes]
    alt = f"{label or 'picture'} of: {_cut(of)}" if of else label or "picture"
    return Picture(source, *small.size, alt, label, shares)


def ordered(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The best, worst and most uncertain examples: by score, and by how sure the model was of it."""
    if {*frame} >= _RETRIEVAL:  # how much better the first match is than the second
        first = np.array([[*scores[:2], *scores[:1]][:2] for scores in frame["first_scores"]], float)
        frame = frame.assign(sure=first[:, 0] - first[:, 1], score=-frame["rank"].astype(float))
    else:
        frame = frame.assign(sure=frame["confidence"].astype(float) if "confidence" in frame else np.nan)
    best = frame.sort_values(["score", "sure"], ascending=False, kind="stable")
    worst = frame.sort_values(["score", "sure"], ascending=[True, False], kind="stable")
    unsure = frame.dropna(subset="sure").sort_values("sure", kind="stable")
    middle = frame["score"].max() if len(frame) else 0
    kinds = {"Best": best, "Worst": worst[worst["score"] < middle], "Most uncertain": unsure}
    return {name: part.head(SHOWN) for name, part in kinds.items()}


def disagreements(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The examples whose scores differ most between runs, by id; the columns `prediction <run>` and `score <run>`."""
    parts = [
        frame.set_index(frame["id"].astype(str))[["prediction", "score"]].add_suffix(f" {name}")
        for name, frame in frames.items()
    ]
    first = next(iter(frames.values()))
    joined = first.set_index(first["id"].astype(str)).join(parts, how="inner")
    scores = joined[[f"score {name}" for name in frames]].astype(float)
    spread = scores.max(axis=1) - scores.min(axis=1)
    return joined.assign(spread=spread)[spread > 0].sort_values("spread", ascending=False, kind="stable").head(SHOWN)


def fooled(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Texts that took a false picture for their own, the surest first; None where the task shows none."""
    if {*frame} >= _RETRIEVAL:
        own = [ids[0] for ids in frame["first_ids"]]
        rows = frame.assign(shown=own)[frame["rank"].to_numpy() > 0]
        rows = rows.assign(sure=[scores[0] for scores in rows["first_scores"]])
        first = frame.drop_duplicates("target").set_index("target")["position"]  # of the texts of each picture
        rows = rows.assign(shown=rows["shown"].map(first)).dropna(subset="shown")
    elif SHOWN_POSITION in frame:
        rows = frame[(frame["target"] == "mismatched") & (frame["score"] == 0)]
        rows = rows.assign(shown=rows[SHOWN_POSITION], sure=rows.get("confidence", 0.0))
    else:
        return None
    return rows.sort_values("sure", ascending=False, kind="stable").head(SHOWN)


def card(row: dict[str, Any], source: SplitSource | None, names: Sequence[str] = ()) -> Card:
    """An example with its pictures, where their data is there.

    Args:
        row: of the predictions. source: of the pictures. names: of runs, whose predictions stand beside each other.
    """
    example, pictures = None, []
    try:
        if source:
            example = source.example(row["position"])
            pictures = _pictures(example, row, source)
    except Exception as error:  # data and tasks of others fail in any way they like
        pictures = [f"It cannot be read ({first_line(error).removesuffix('.')})."]
    text = example.text if example else str(row.get("text", ""))
    second = example.text_pair if example else None
    return Card(str(row["id"]), _cut(f"{text} — {second}" if second else text), pictures, _answers(row, names, example))


def _pictures(example: Example, row: dict[str, Any], source: SplitSource) -> list[Picture | str]:
    shown = row.get("shown", row.get(SHOWN_POSITION))
    if shown is not None and int(shown) != int(row["position"]):
        own = [thumbnail(example.images[0], example.text, "its own picture")] if "shown" in row else []
        false = "taken for its own" if "shown" in row else "another picture"
        return [*own, thumbnail(source.example(int(shown)).images[0], example.text, false)]
    boxes, labels = _boxes(example, row), ("left", "right") if len(example.images) == 2 else ("",)
    return [thumbnail(image, example.text, label, boxes) for image, label in zip(example.images, labels, strict=False)]


def _boxes(example: Example, row: dict[str, Any]) -> list[Box]:
    """The candidates, the right one and the predicted one last."""
    if example.boxes is None:
        return []
    chosen = {int(row["prediction"]): "wrong", int(row["target"]): "right"}
    boxes = [Box(chosen.get(number, "other"), *map(float, box)) for number, box in enumerate(example.boxes)]
    return sorted(boxes, key=lambda box: ("other", "wrong", "right").index(box.kind))


def _answers(row: dict[str, Any], names: Sequence[str], example: Example | None) -> list[tuple[str, str, str]]:
    """(what, value, class of style) of what the runs said, of the right answer, and how sure they were."""

    def word(value: Any) -> str:
        if example is not None and example.boxes is not None:
            return f"box {int(value) + 1} of {len(example.boxes)}"
        if {*row} >= _RETRIEVAL:
            return f"picture {value}"
        return f"{value:.3g}" if isinstance(value, float) else _cut(str(value))

    if names:
        found = [(name, word(row[f"prediction {name}"]), _kind(row[f"score {name}"])) for name in names]
        return [*found, ("right answer", word(row["target"]), "")]
    if {*row} >= _RETRIEVAL:
        found = [("own picture ranks", f"{int(row['rank']) + 1:,}", _kind(float(row["rank"] == 0)))]
        return [*found, ("score of the first", f"{row['first_scores'][0]:.2f}", "")]
    measured = isinstance(row["target"], float)
    found = [("prediction", word(row["prediction"]), "" if measured else _kind(row["score"]))]
    if measured or row["prediction"] != row["target"]:
        found.append(("right answer", word(row["target"]), ""))
    if row.get("confidence") is not None and row["confidence"] == row["confidence"]:
        found.append(("confidence", f"{row['confidence']:.0%}", ""))
    return found


def _kind(score: float) -> str:
    return "right" if score >= 0.5 else "wrong"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} …"
