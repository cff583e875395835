"""`python run.py encode with load_path=best.ckpt datasets='["coco"]' split=val output=features`: vectors of a whole split."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from renaissance.core.atomic import NoRoomError
from renaissance.core.checks import (
    Check,
    choice,
    dataset_list,
    flag,
    integer,
    path,
    plugin_names,
    require_checkpoint,
    text,
)
from renaissance.core.console import say
from renaissance.core.errors import Stopped, UserError, require
from renaissance.core.launch import lasting_imports
from renaissance.data.prepare.skipped import in_words

KINDS = ("text", "image", "fused", "tokens")


def _named(value: Any) -> list[str]:
    return [each.strip() for each in value.split(",")] if isinstance(value, str) else list(value)


kinds = Check(
    f"some of {', '.join(KINDS)}, with commas between",
    lambda v: isinstance(v, (str, list, tuple)) and bool(v) and set(_named(v)) <= {*KINDS},
    _named,
)


# fmt: off
class EncodeModel:
    """The model"""

    load_path: path("the path of a checkpoint") = None  # checkpoint of the model, or a folder that `export` wrote
    plugins: plugin_names = None  # modules and files that the checkpoint was trained with, such as ["my_lab.gqa", "path/to/file.py"]
    trust_remote_code: flag = False  # True: runs the code that an encoder of the checkpoint brought


class EncodeInputs:
    """What is read: a split, or files"""

    datasets: dataset_list = None  # data sets, such as ["coco"]; one, or several of captions
    split: text("the name of a split") = None  # train, val, test, or another that the data set has; None = val
    data_root: path("a folder of arrow files") = None  # folder of the arrow files; None = data/arrow
    image_column: text("the name of a column") = None  # what own captions call the column of images; None = image
    caption_column: text("the name of a column") = None  # the same for captions; None = caption
    images: path("a folder of images") = None  # in the place of data sets: a folder of images, read by the alphabet of their names
    texts: path("a text file") = None  # in the place of data sets: a file with one text a line; with what=fused line n goes with the n-th image


class EncodeOutput:
    """What is written"""

    output: path("the path of a folder") = None  # folder that is written; the same command goes on in it
    what: kinds = None  # text, image: of each encoder alone (None = both, or what there is); fused: of each text with its image; tokens: the features of all tokens beside the vectors of texts and images
    store: choice("float16", "float32") = "float32"  # of the numbers: float16 or float32
    file_type: choice("parquet", "npy") = "parquet"  # parquet: a row for each; npy: arrays, with rows.parquet beside them
    batch_size: integer(1) = 32  # inputs of one pass; changes no number
    num_processes: integer(1) = 1  # processes, each with a GPU of its own where there are some
    num_workers: integer(0) = 2  # loader processes of each of them
# fmt: on


def main(
    load_path: str | None,
    trust_remote_code: bool,
    datasets: str | list[str] | None,
    split: str | None,
    data_root: str | None,
    image_column: str | None,
    caption_column: str | None,
    images: str | None,
    texts: str | None,
    output: str | None,
    what: list[str] | None,
    store: str,
    file_type: str,
    batch_size: int,
    num_processes: int,
    num_workers: int,
) -> None:
    """Writes the vectors, or goes on where the same command was stopped.

    Raises:
        UserError: a setting is missing or contradicts another, an input cannot be read, or the folder holds something else.
    """
    require(load_path is not None, "load_path=None: give the path of a checkpoint with load_path=.")
    require(output is not None, "output=None: give the name of a folder with output=.")
    files = images is not None or texts is not None
    require(files != (datasets is not None), "give either datasets=, or images= and texts=, to say what is encoded.")
    of_splits = {"split": split, "data_root": data_root, "image_column": image_column, "caption_column": caption_column}
    _refuse_given(of_splits if files else {}, "is of data sets, and images= and texts= are files")
    alone = {*(what or ())}
    idle = {"images": images if alone == {"text"} else None, "texts": texts if alone == {"image"} else None}
    _refuse_given(idle, f"is not read with what={','.join(alone)}")
    if images is not None:
        _refuse_within(images, output)
    require_checkpoint("load_path", load_path)
    with lasting_imports():
        from renaissance.inference import features  # here, because it imports torch
        from renaissance.inference.inputs import FileInputs, SplitInputs
        from renaissance.inference.output import finish, open_output
        from renaissance.inference.processes import fill

    names = [datasets] if isinstance(datasets, str) else list(datasets or ())
    split, data_root = split or "val", data_root or "data/arrow"
    inputs = FileInputs(images, texts) if files else SplitInputs(names, split, data_root, image_column, caption_column)
    for note in inputs.notes:
        say(f"note: {note}")
    counts = {side: inputs.count(side) for side in features.SIDES}
    where = {"images": images, "texts": texts} if files else {"datasets": names}
    sides, tokens = _sides(what, counts, where), features.TOKENS in alone
    plan = features.EncodingPlan(
        load_path, inputs, sides, tokens, store, Path(output), batch_size, num_workers, trust_remote_code
    )
    about = {
        "load_path": load_path,
        "datasets": names,
        "split": None if files else split,
        "images": images,
        "texts": texts,
        "notes": [*inputs.notes],
    }
    made = not os.path.exists(output)
    with _going_on(output):
        if not open_output(plan, file_type, about):
            if files and features.FUSED in sides:
                order = "images by the alphabet of their names, texts by their lines"
                say(f"pairs go by {order}: {inputs.pair(0)}, ..., {inputs.pair(-1)}.")
            fill(plan, num_processes)
        manifest = finish(plan, file_type, made=made)
    _report(output, manifest)


def _refuse_given(values: Mapping[str, Any], why: str) -> None:
    given = [f"{key}={value}" for key, value in values.items() if value is not None]
    require(not given, f"{', '.join(given)} {why}; leave it out.")


def _refuse_within(images: str, output: str) -> None:
    """Refuses an output among the images, or around them."""
    read, written = (Path(os.path.realpath(each)) for each in (images, output))
    apart = read not in (written, *written.parents) and written not in read.parents
    require(apart, f"output={output} and images={images} lie in one another; give an output beside the images.")


def _sides(what: list[str] | None, counts: Mapping[str, int], where: Mapping[str, Any]) -> tuple[str, ...]:
    """The sides that are made: those that `what` names; without, and for tokens, texts and images as there are.

    Args:
        counts: by side, how many there are. where: the settings that say what is read.

    Raises:
        UserError: there is nothing of one.
    """
    named, either = what or (), what is None or "tokens" in what
    sides = tuple(side for side in counts if side in named or (either and side != "fused" and counts[side]))
    given = ", ".join(f"{key}={value}" for key, value in where.items() if value is not None)
    for side in (side for side in sides if not counts[side]):
        uneven = f"images={where.get('images')} has {counts['image']:,} images and texts={where.get('texts')}"
        both = "datasets" not in where and counts["image"] and counts["text"]
        require(not both, f"{uneven} {counts['text']:,} lines; fused needs as many of both.")
        lack = side if side != "fused" else next(each for each in ("text", "image") if not counts[each])
        give = "" if "datasets" in where else f"give {lack}s=, or "
        raise UserError(
            f"what={','.join(named)}: {given} has no {lack}s, and {side} needs them; {give}leave {side} out."
        )
    require(sides, f"{given} has neither texts nor images; give others.")
    return sides


@contextmanager
def _going_on(output: str) -> Iterator[None]:
    """Says of what stops a command, and not of what is wrong with it, that it goes on."""
    try:
        yield
    except Stopped as stop:
        hint = f"{stop}; the same command goes on in output={output}"
        raise Stopped(hint, stop.status, local_only=stop.local_only) from None
    except NoRoomError as error:
        raise UserError(f"{error} With space, the same command goes on.") from None


def _report(output: str, manifest: Mapping[str, Any]) -> None:
    """Says what there is now, and what was left out."""
    if not manifest["complete"]:
        say(f"output={output} is being completed by another process.")
        return
    say(f"written: {output}")
    for side, kinds in manifest["skipped"].items():
        if kinds:
            count = sum(kind["count"] for kind in kinds.values())
            left = "whose ids no row has" if manifest["rows"][side] else "so nothing is left of it"
            say(f"left out of {side}: {count:,}, {left}; {in_words(kinds)}.")
