"""Tables of what the names in settings mean, one for each kind; the package and plugins fill them by the same call.

    TASKS.add("gqa", "my_lab.gqa.task:Gqa")

An entry "module:attribute" is imported when it is first asked for, so that settings are checked by names alone, without torch.
Nothing here imports what it names.
"""

from __future__ import annotations

import re
from collections import UserDict
from importlib import import_module
from pathlib import Path
from typing import Any

from .errors import UserError, first_line, printable, require


class Registry(UserDict[str, Any]):
    """Entries by name, in the order in which they were added.

    Args:
        what: is registered, for sentences.
        base: the class of the entries, or "module:attribute" where it is to be found.
        subclasses: the entries are subclasses of `base`, not instances.
    """

    def __init__(self, what: str, base: Any, *, subclasses: bool = False):
        super().__init__()
        self.what, self.base, self.subclasses = what, base, subclasses

    def add(self, name: str, entry: Any) -> None:
        """Adds an entry, or "module:attribute" where it is to be found.

        Raises:
            UserError: the name is taken, or is none that can be typed; the entry is of another kind.
        """
        require(name and name == "".join(name.split()), f"the {self.what} {name!r} needs a name without spaces.")
        require(name not in self, f"the {self.what} {name!r} is there already; give this one another name.")
        if not _is_place(entry):
            self._check(f"{name!r}, {printable(repr(entry))[:80]},", entry)
        self.data[name] = entry

    def __getitem__(self, name: str) -> Any:
        entry = self.data[name]
        if not _is_place(entry):
            return entry
        try:
            found = _found(entry)
        except (ModuleNotFoundError, AttributeError) as error:
            raise UserError(f"The {self.what} {name} is not at {entry} ({first_line(error)}).") from error
        self._check(f"{name} ({entry})", found)
        return found

    def _check(self, which: str, entry: Any) -> None:
        base = _found(self.base) if _is_place(self.base) else self.base
        fits = isinstance(entry, type) and issubclass(entry, base) if self.subclasses else isinstance(entry, base)
        kind = "subclass" if self.subclasses else "instance"
        require(
            fits,
            f'the {self.what} {which} is no {kind} of {str(self.base).replace(":", ".")}; give one, or "module:attribute".',
        )


def _is_place(entry: Any) -> bool:
    return isinstance(entry, str) and ":" in entry


def _found(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


# name -> entry
TASKS = Registry("task", "renaissance.tasks.base:Task", subclasses=True)
DATASETS = Registry("data set", "renaissance.data.dataset_specs:DatasetSpec")
WRITERS = Registry("writer", "collections.abc:Callable")  # make_arrow(root, data_root, ...), as arrow_writer makes it
TRANSFORMS = Registry("transform", "renaissance.data.transforms:Transform", subclasses=True)
FUSIONS = Registry("fusion kind", "torch.nn:Module", subclasses=True)  # a layer, as models.fusion.SharedLayer
FAMILIES = Registry("encoder family", "renaissance.models.backbones.family:Family")  # by model type
PRESETS = Registry("preset", dict | str)  # the settings that it sets, or the names of the presets that it joins

# The order of losses in their sum. A new file of tasks/ comes behind them, and is left out of a run's identity where it is off.
FIRST_TASKS = ("mlm", "itm", "itc", "vqa", "nlvr2", "snli", "ref", "irtr", "glue", "images")
NO_TASKS = {"base", "encodings", "frozen_features", "zero_shot"}  # files of tasks/ that hold what tasks share
_FILES = {path.stem for path in (Path(__file__).parents[1] / "tasks").glob("[a-z]*.py")} - NO_TASKS
# A task is a file of tasks/: mlm.py holds the class Mlm.
for _name in (*FIRST_TASKS, *sorted(_FILES.difference(FIRST_TASKS))):
    TASKS.add(_name, f"renaissance.tasks.{_name}:{_name.title().replace('_', '')}")
for _name in ("imagenet", "vit", "clip"):
    TRANSFORMS.add(_name, "renaissance.data.transforms:CenterCrop")
TRANSFORMS.add("pixelbert", "renaissance.data.transforms:KeepAspect")
for _name, _class in (("shared", "SharedLayer"), ("separate", "SeparateLayer"), ("merged", "TransformerLayer")):
    FUSIONS.add(_name, f"renaissance.models.fusion:{_class}")


def with_names(text: str) -> str:
    """A text in which `{TASKS}`, say, stands for the names in that table, those of plugins among them."""
    return re.sub(r"{([A-Z]+)}", lambda table: ", ".join(globals()[table[1]]), text)
