"""Makes a checkpoint of this program from another program's file.

    file -> ForeignModel -> program's rules -> Converted -> towers as folders in the Hub's layout -> resolve, build -> checkpoint

The towers take the way of any pretrained encoder, so transformers reads their names, whatever version is installed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from safetensors.torch import save_file
from torch import Tensor

from renaissance.core.errors import UserError, require, shortened
from renaissance.runs import checkpoint
from renaissance.runs.stored import Stored, TrainingState
from renaissance.settings.declared import defaults
from renaissance.settings.resolver import ConfigResolver
from renaissance.training.assembly import Built, build
from renaissance.training.checkpointing import checkpoint_content
from renaissance.training.resolution import Resolved, resolve

from . import first_program, meter, vilt
from .converted import Converted
from .foreign import ForeignModel
from .key_map import report


class Program(NamedTuple):
    """A program whose files are known. Attributes: matches(state); convert(source, heads)."""

    matches: Callable[[Mapping[str, Tensor]], bool]
    convert: Callable[[ForeignModel, Mapping[str, int]], Converted]


PROGRAMS = {
    name: Program(each.matches, each.convert)
    for name, each in (("ViLT", vilt), ("METER", meter), ("the first Renaissance", first_program))
}


class Imported(NamedTuple):
    """What became of a file.

    Attributes:
        stored: the checkpoint; None where a tensor is not explained.
        lines: what became of each tensor, and how the model differs from the program's.
    """

    stored: Stored | None
    lines: list[str]


def convert(source: ForeignModel, heads: Mapping[str, int]) -> Converted:
    """A program's model in the terms of this one. heads: numbers of attention heads by tower, which no tensor shows.

    Raises:
        UserError: the file is of no program that is known, or not whole.
    """
    program = next((each for each in PROGRAMS.values() if each.matches(source.state)), None)
    held = shortened(source.state, 4)
    known = ", ".join(PROGRAMS)
    require(program, f"source={source.name} is of no program that is known ({known}): it holds {held}.")
    return program.convert(source, heads)


def import_model(
    source: ForeignModel,
    tokenizer: str | None = None,
    answers: Sequence[str] = (),
    heads: Mapping[str, int] = MappingProxyType({}),
    **given: Any,
) -> Imported:
    """Makes a checkpoint of another program's model.

    Args:
        source: its file.
        tokenizer: Hub id or folder; None takes that of the program.
        answers: of VQA in the order of their numbers, where the file does not have them.
        heads: numbers of attention heads by tower, where the file does not have them.
        given: other settings of the command.

    Raises:
        UserError: the file is of no program that is known, or not whole, or its tokenizer has another vocabulary.
    """
    converted = convert(source, heads)
    if tokenizer is None and source.folder is not None and (source.folder / "tokenizer_config.json").exists():
        tokenizer = source.name
    renamed, where = converted.renamed, f"source={source.name}"
    if renamed.unknown:
        return Imported(None, report(renamed))
    tasks = sorted({name.partition(".")[0] for name in renamed.parts["heads"]}) or ["mlm", "itm"]
    settings = (
        converted.settings
        | {"loss_names": defaults()["loss_names"] | dict.fromkeys(tasks, 1), "max_steps": 1}  # of a run that is not run
        | ({"draw_false_text": 15} if "irtr" in tasks else {})  # ViLT's
        | given
        | ({"tokenizer": tokenizer} if tokenizer else {})
    )
    words = next(
        len(tensor)
        for part in renamed.parts.values()
        for name, tensor in part.items()
        if name.endswith(("word_embeddings.weight", "text_embeddings.word.weight"))
    )
    with tempfile.TemporaryDirectory() as folder:
        names = {
            key: _write_tower(Path(folder) / key, config, renamed.parts.pop(key), converted.image)
            for key, config in converted.tower_configs.items()
        }
        resolver = ConfigResolver(defaults() | settings | names, dict.fromkeys([*settings, *names], "given"))
        resolved = resolve(resolver, reads_data=False)
        _refuse_other_vocabulary(words, resolved, where)
        resolved = resolved._replace(labels=_labels(converted, answers, where))
        built = build(resolved)
    new = _copy(built, renamed.parts, where)
    stored = checkpoint_content(built, resolved)(TrainingState())
    named = {key: Path(source.name).name for key in converted.tower_configs}
    lines = [f"{converted.program} in {source.name}", *report(renamed, new), *converted.notes]
    return Imported(stored._replace(settings=stored.settings | named), lines)


def _write_tower(folder: Path, config: Any, state: Mapping[str, Tensor], image: Mapping[str, Any]) -> str:
    """A folder in the Hub's layout."""
    folder.mkdir()
    config.save_pretrained(folder)
    save_file({name: tensor.float() for name, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"})
    pixels = {"image_mean": list(image["mean"]), "image_std": list(image["std"])}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return str(folder)


def _refuse_other_vocabulary(words: int, resolved: Resolved, where: str) -> None:
    pieces, name = resolved.settings.model.vocab_size, resolved.settings.model.tokenizer
    require(
        pieces == words,
        f"{where} has {words:,} word embeddings, but tokenizer={name} has {pieces:,} pieces; give the tokenizer that it was "
        "trained with.",
    )


def _labels(converted: Converted, answers: Sequence[str], where: str) -> dict[str, tuple[str, ...]]:
    """The vocabularies of the heads, of as many answers as they have outputs."""
    labels = {task: tuple(names) for task, names in converted.labels.items()}
    outputs = converted.renamed.parts["heads"].get("vqa.head.3.bias")
    if outputs is not None:
        names = tuple(answers) or labels.get("vqa", ())
        count = len(names)
        require(
            count == len(outputs),
            f"{where} answers VQA with {len(outputs):,} answers, "
            + (
                f"and answers= has {count:,}; give those"
                if count
                else "and does not name them; give answers=<file>, one a line, those"
            )
            + " that it was trained on, in their order.",
        )
        labels["vqa"] = names
    return labels


def _copy(built: Built, parts: Mapping[str, Mapping[str, Tensor]], where: str) -> list[str]:
    """Copies what no tower brought into the model and the heads; returns the names of parameters that stay as they were drawn.

    Raises:
        UserError: a tensor has no place, or another shape.
    """
    new = []
    for part, module in (("model", built.model), ("heads", built.heads)):
        own = module.state_dict()
        for name, tensor in parts.get(part, {}).items():
            shape = tuple(own[name].shape) if name in own else None
            require(
                shape == tuple(tensor.shape),
                f"{where}: {name} is {tuple(tensor.shape)}, but has to be {shape}; it is damaged.",
            )
        module.load_state_dict({name: tensor.float() for name, tensor in parts.get(part, {}).items()}, strict=False)
        towers = tuple(
            f"{each}." for each in ("blocks", "image_tower", "text_tower", *getattr(module, "pretrained", ()))
        )
        new += [
            name
            for name in own
            if name not in parts.get(part, {}) and not (part == "model" and name.startswith(towers))
        ]
    return new


def write(path: Path, stored: Stored) -> None:
    """Writes a checkpoint, and makes its folder; raises UserError where it cannot be written, and then leaves nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={path} cannot be written ({error.strerror}); give another folder.") from error
    checkpoint.save(path, stored, "output")
