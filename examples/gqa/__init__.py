"""GQA as a plugin: questions about images that need several steps of reasoning. (Hudson and Manning, CVPR 2019)

This file only registers names, so commands that need no model stay quick; the classes are imported when they are used.
"""

from renaissance.core.registry import DATASETS, PRESETS, TASKS, WRITERS
from renaissance.data.dataset_specs import IMAGE, Column, DatasetSpec, Expected

SAMPLE_KIND = "GQA questions"
COLUMNS = (
    IMAGE,
    Column("questions", "list<string>", "its questions"),
    Column("answers", "list<string>", "the answer to each question"),
    Column("question_id", "list<string>", "GQA's id of each question"),
    Column("structural", "list<string>", "type of each question: query, verify, logical, choose or compare"),
    Column("image_id", "string", "GQA's id of the image"),
)
FILES = {"train": "gqa_train.arrow", "val": "gqa_val.arrow", "testdev": "gqa_testdev.arrow"}
COUNTS = {"train": 943_000, "val": 132_062, "testdev": 12_578}  # balanced questions of the official download

TASKS.add("gqa", f"{__name__}.task:Gqa")
WRITERS.add("gqa", f"{__name__}.writer:make_arrow")
DATASETS.add(
    "gqa",
    DatasetSpec(
        sample_kind=SAMPLE_KIND,
        splits={split: (file,) for split, file in FILES.items()},
        samples="questions",
        columns=COLUMNS,
        expected={FILES[split]: Expected(texts=count) for split, count in COUNTS.items()},
        writer="gqa",
    ),
)
PRESETS.add(
    "task_finetune_gqa",
    {
        "exp_name": "finetune_gqa",
        "datasets": ["gqa"],
        "loss_names": {"gqa": 1},
        "batch_size": 256,
        "max_epoch": 5,
        "learning_rate": 1e-5,
        "lr_mult_head": 50,
    },
)
