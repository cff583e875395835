"""A plugin with a toy of each kind, see tests/test_plugins.py."""

from renaissance.config import Objectives
from renaissance.core.checks import number
from renaissance.core.registry import DATASETS, FAMILIES, FUSIONS, PRESETS, TASKS, TRANSFORMS, WRITERS
from renaissance.data.dataset_specs import IMAGE, Column, DatasetSpec
from renaissance.settings.declared import add_settings


# fmt: off
class Toys(Objectives):
    """Toys"""

    toy_weight: number(0).changeable = 1.0  # factor of the loss of toys
# fmt: on


SAMPLE_KIND = "toys"
PARTS = f"{__name__}.parts"

add_settings(Toys)
TASKS.add("toy_length", f"{PARTS}:ToyLength")
TASKS.add("toys", f"{PARTS}:ToyTask")
TRANSFORMS.add("mirror", f"{PARTS}:Mirror")
FUSIONS.add("sum", f"{PARTS}:SumLayer")
FAMILIES.add("toy-bert", f"{PARTS}:TOY_BERT")
WRITERS.add("toys", f"{__name__}.writer:make_arrow")
DATASETS.add(
    "toys",
    DatasetSpec(
        sample_kind=SAMPLE_KIND,
        splits={"train": ("toys_train.arrow",), "val": ("toys_val.arrow",)},
        samples="",
        columns=(IMAGE, Column("colour", "string", "of the toy")),
        expected={},
        writer="toys",
    ),
)
PRESETS.add("task_toys", {"exp_name": "toys", "datasets": ["toys"], "loss_names": {"toys": 1, "toy_length": 0.5}})
PRESETS.add("mirrored", {"train_transform_keys": ["mirror_randaug"], "val_transform_keys": ["mirror"]})
PRESETS.add("mirrored_toys", "task_toys mirrored")
