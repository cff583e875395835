"""Makes a checkpoint of this program from another program's file.

    file -> ForeignModel -> program's rules -> Converted -> towers as folders in the Hub's layout -> resolve, build -> checkpoint

The towers take the way of any pretrained encoder, so transformers reads their names, whatever version is installed.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from safetensors.torch import save_file
from torch import Tensor

from renaissance.core.errors import UserError, first_line, require, shortened
from renaissance.models import backbones
from renaissance.models.attention import Attention
from renaissance.models.two_tower import TwoTower
from renaissance.runs import checkpoint
from renaissance.runs.stored import Stored, TrainingState
from renaissance.settings.declared import defaults
from renaissance.settings.resolver import ConfigResolver
from renaissance.training.assembly import Built, build
from renaissance.training.checkpointing import TOWER_PARTS, checkpoint_content
from renaissance.training.resolution import Resolved, resolve

from . import first_program, meter, vilt
from .converted import Converted
from .foreign import ForeignModel
from .key_map import Renamed, every_key, report

PROGRAMS = {each.NAME: each for each in (vilt, meter, first_program)}


class Imported(NamedTuple):
    """What became of a file.

    Attributes:
        stored: the checkpoint; None where a tensor is not explained.
        lines: what became of the tensors, and how the model differs from the program's.
        keys: a line about each tensor.
    """

    stored: Stored | None
    lines: list[str]
    keys: list[str]


def convert(source: ForeignModel, heads: Mapping[str, int]) -> Converted:
    """A program's model in the terms of this one. heads: numbers of attention heads by tower, which no tensor shows.

    Raises:
        UserError: the file is of no program that is known, or not whole.
    """
    name = next((name for name, each in PROGRAMS.items() if each.matches(source.state)), None)
    known, held = ", ".join(PROGRAMS), shortened(source.state, 4)
    require(name, f"source={source.name} is of no program that is known ({known}): it holds {held}.")
    try:
        return PROGRAMS[name].convert(source, heads)
    except UserError:
        raise
    except Exception as error:  # sizes are read of tensors that are missing, or of other shapes
        what = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"source={source.name} is not whole, or not as {name} writes its files ({what}).") from error


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
        tokenizer: Hub id or folder; None takes that of the file's folder, of its settings, or of the program.
        answers: of VQA in the order of their numbers, where the file does not have them.
        heads: numbers of attention heads by tower, and of the fusion, where the file does not have them.
        given: other settings of the command.

    Raises:
        UserError: the file is of no program that is known, or not whole, or its tokenizer has another vocabulary.
    """
    where = f"source={source.name}"
    converted = convert(source, heads)
    renamed = converted.renamed
    renamed.forget_parts_but({"model", "heads", *converted.tower_configs})
    if renamed.unknown:
        return Imported(None, report(renamed), every_key(renamed))
    bad = [renamed.origins[key] for key, tensor in renamed.tensors() if not tensor.isfinite().all()]
    require(not bad, f"{where} holds NaN or infinite values in {len(bad)} of its tensors ({shortened(bad)}).")
    settings = converted.settings | _run_settings(renamed) | given
    settings["tokenizer"] = tokenizer or _own_tokenizer(source, given) or settings["tokenizer"]
    with tempfile.TemporaryDirectory() as folder:
        try:
            resolved, built = _build(converted, settings, Path(folder), answers, where)
        except Exception as error:  # a folder that is gone when the sentence is read is not named
            sentence = first_line(error) if not isinstance(error, UserError) else str(error)
            sentence = re.sub(rf"{re.escape(folder)}\S*?/(\w+encoder|encoder)", "the source", sentence)
            raise UserError(f"{where}: {sentence}" if where not in sentence else sentence) from error
    for key in converted.tower_configs:  # transformers knows no such parameters, and calls them as it would its own
        unused = getattr(built.model, TOWER_PARTS[key]).unused
        renamed.forget(f"{key}:{_as_written(name, renamed.parts[key])}" for name in unused)
    new = _copy(built, renamed, where)
    if renamed.unknown:
        return Imported(None, report(renamed), every_key(renamed))
    stored = checkpoint_content(built, resolved)(TrainingState())
    named = {key: Path(source.name).name for key in converted.tower_configs}
    lines = [f"{converted.program} in {source.name}", *report(renamed, new), *head_lines(built), *converted.notes]
    return Imported(stored._replace(settings=stored.settings | named), lines, every_key(renamed, new))


def _as_written(name: str, state: Iterable[str]) -> str:
    """The name in a file of what transformers has renamed while it read: the one with the same end, where there is one."""
    end = ".".join(name.split(".")[-2:])
    alike = [each for each in state if each.endswith(f".{end}")]
    return alike[0] if len(alike) == 1 else name


def _run_settings(renamed: Renamed) -> dict[str, Any]:
    """Settings of a run with the heads that there are; a model without any gets those of pretraining, drawn anew."""
    tasks = sorted({name.partition(".")[0] for name in renamed.parts["heads"]}) or ["mlm", "itm"]
    settings = {"loss_names": defaults()["loss_names"] | dict.fromkeys(tasks, 1), "max_steps": 1}  # which nobody takes
    return settings | ({"draw_false_text": 15} if "irtr" in tasks else {})  # ViLT's


def _own_tokenizer(source: ForeignModel, given: Mapping[str, Any]) -> str | None:
    """The source's own name, where it brings a tokenizer; else what its settings say."""
    if source.folder is None:
        named = source.settings.get("tokenizer")
        return named if isinstance(named, str) and named else None
    try:
        backbones.load_tokenizer(source.name, allow_download=given.get("allow_download", True))
    except backbones.NoTokenizerError:
        return None
    return source.name


def _build(
    converted: Converted, settings: Mapping[str, Any], folder: Path, answers: Sequence[str], where: str
) -> tuple[Resolved, Built]:
    """Builds the model, with its towers by way of folders."""
    parts = converted.renamed.parts
    words = next(
        len(tensor)
        for part in parts.values()
        for name, tensor in part.items()
        if name.endswith(("word_embeddings.weight", "text_embeddings.word.weight"))
    )
    names = {
        key: _write_tower(folder / key, config, parts[key], converted.image)
        for key, config in converted.tower_configs.items()
    }
    resolver = ConfigResolver(defaults() | settings | names, dict.fromkeys([*settings, *names], "given"))
    resolved = resolve(resolver, reads_data=False)
    pieces, name = resolved.settings.model.vocab_size, resolved.settings.model.tokenizer
    require(
        pieces == words,
        f"{where} has {words:,} word embeddings, but tokenizer={name} has {pieces:,} pieces; give the tokenizer that it was "
        "trained with.",
    )
    resolved = resolved._replace(labels=resolved.labels | _answers(converted, answers, where))
    return resolved, build(resolved)


def _write_tower(folder: Path, config: Any, state: Mapping[str, Tensor], image: Mapping[str, Any]) -> str:
    """A folder in the Hub's layout."""
    folder.mkdir()
    config.save_pretrained(folder)
    save_file({name: tensor.float() for name, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"})
    pixels = {"image_mean": list(image["mean"]), "image_std": list(image["std"])}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return str(folder)


def _answers(converted: Converted, given: Sequence[str], where: str) -> dict[str, tuple[str, ...]]:
    """The answers of VQA, as many as its head has outputs."""
    outputs = converted.renamed.parts["heads"].get("vqa.head.3.weight")
    require(outputs is not None or not given, f"{where} has no head for VQA; leave answers out.")
    if outputs is None:
        return {}
    names, source = (given, "answers=") if given else (converted.answers, "it")
    advice = "give answers=<file>, one a line in the order of their numbers, with those that it was trained on."
    found = f"{source} names {len(names):,}" if names else "it does not name them"
    require(len(names) == len(outputs), f"{where} answers VQA with {len(outputs):,} answers, and {found}; {advice}")
    bad = [name for name, count in Counter(names).items() if count > 1 or not name.strip()]
    require(not bad, f"{where}: {source} names an answer twice, or an empty one ({shortened(bad)}); {advice}")
    return {"vqa": tuple(names)}


def _copy(built: Built, renamed: Renamed, where: str) -> list[str]:
    """Copies what no tower brought into the model and the heads; a tensor that has no place there becomes unknown.

    Returns:
        The names of the parameters of heads that the file does not have, which stay as they were drawn.

    Raises:
        UserError: a tensor has another shape, or one is missing beside others of its module.
    """
    towers = tuple(f"{each}." for each in (*TOWER_PARTS.values(), *getattr(built.model, "pretrained", ())))
    new: list[str] = []
    for part, module in (("model", built.model), ("heads", built.heads)):
        own, state = module.state_dict(), renamed.parts[part]
        renamed.forget([f"{part}:{name}" for name in state if name not in own])
        for name, tensor in state.items():
            shapes = tuple(tensor.shape), tuple(own[name].shape)
            key = renamed.origins[f"{part}:{name}"]
            require(
                shapes[0] == shapes[1], f"{where}: {key} makes {shapes[0]}, but has to make {shapes[1]}; it is damaged."
            )
        missing = [name for name in own if name not in state and not (part == "model" and name.startswith(towers))]
        begun = {name.partition(".")[0] for name in state}
        lacking = [name for name in missing if part == "model" or name.partition(".")[0] in begun]
        require(not lacking, f"{where} is not whole: nothing makes {shortened(lacking)} of the {part}.")
        module.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)
        new += missing
    return new


def head_lines(built: Built) -> list[str]:
    """A line about the numbers of attention heads, which no tensor shows."""
    parts = {key: getattr(built.model, part).config for key, part in TOWER_PARTS.items() if hasattr(built.model, part)}
    counts = {key: backbones.encoder_dimensions(config)["num_heads"] for key, config in parts.items()}
    if isinstance(built.model, TwoTower):
        counts["fusion"] = next(each.heads for each in built.model.fusion.modules() if isinstance(each, Attention))
    shown = ", ".join(f"{key} {count}" for key, count in counts.items() if count)
    return [
        f"attention heads: {shown}; no tensor shows them: if they were others, say so by the settings that end in num_heads"
    ]


def write(path: Path, stored: Stored) -> None:
    """Writes a checkpoint, and makes its folder; raises UserError where it cannot be written, and then leaves nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={path} cannot be written ({error.strerror}); give another folder.") from error
    checkpoint.save(path, stored, "output")
