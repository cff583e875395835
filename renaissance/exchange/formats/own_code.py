"""format=transformers: a folder with one file of code, and a configuration that says what its towers and heads are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from torch import nn

from renaissance.core.errors import require
from renaissance.core.public import public
from renaissance.data.transforms import CenterCrop, KeepAspect
from renaissance.models import backbones
from renaissance.models.embeddings import PatchEmbeddings, TextEmbeddings
from renaissance.models.one_tower import OneTower
from renaissance.models.two_tower import TwoTower
from renaissance.runs.exported import OURS
from renaissance.runs.stored import Stored
from renaissance.settings.keys import marked
from renaissance.tasks.itc import SIZE
from renaissance.training.image_inputs import transform_of
from renaissance.training.resolution import Resolved

from .one_file import code
from .source import ExportSource, write_json

FILE = "modeling_renaissance"
_LOADING = """```python
from transformers import {names}
{more}
model = {last}.from_pretrained("{folder}"{trust})  # runs modeling_renaissance.py of this folder
processor = AutoProcessor.from_pretrained("{folder}", trust_remote_code=True)
output = model(**processor({inputs}))
```"""
_FOUND = "from transformers.dynamic_module_utils import get_class_from_dynamic_module\n"
# What a processor is given for the head of a task.
_INPUTS = {
    "nlvr2": 'images=[["left.jpg", "right.jpg"]], text=["both dogs sit"]',
    "glue": 'text="a sentence"',
    "images": 'images="picture.jpg"',
    "ref": 'images=[["box_1.jpg", "box_2.jpg"]], text=["the left dog"]',
}
_OWN_FUSIONS = ("shared", "separate", "merged")
# Class of an exported model, and transformers' class that finds it, by task.
_CLASSES = {
    "mlm": ("AutoModelForMaskedLM", "RenaissanceForMaskedLM"),
    "vqa": ("AutoModelForVisualQuestionAnswering", "RenaissanceForVisualQuestionAnswering"),
    **dict.fromkeys(("nlvr2", "snli", "glue"), ("AutoModelForSequenceClassification", "RenaissanceForSequenceClassification")),
    "images": ("AutoModelForImageClassification", "RenaissanceForImageClassification"),
    "itm": ("", "RenaissanceForImageTextRetrieval"),
    "irtr": ("", "RenaissanceForImageTextRetrieval"),
    "ref": ("", "RenaissanceForReferringExpression"),
}  # fmt: skip


def write(source: ExportSource, folder: Path) -> list[str]:
    """Writes the files into a folder; returns what to tell.

    Raises:
        UserError: one file of code cannot hold the model.
    """
    config = hub_config(source)
    for name, content in processor_configs(source.stored, source.resolved).items():
        write_json(folder / name, content)
    (folder / f"{FILE}.py").write_text(code(), encoding="utf-8")
    source.write_own(config, folder)
    found = [name for name in config["auto_map"] if name != "AutoConfig"]
    source.classes = [*found, *dict.fromkeys(_alone(config).values())]
    source.loading = _example(config, folder.name)
    left = sorted(set(source.heads) - set(config["heads"]))
    notes = [f"the head of {task} has no class in {FILE}.py; load_path={folder.name} still reads it" for task in left]
    return [f"classes: {', '.join(source.classes)}", *notes]


def _example(config: dict[str, Any], folder: str) -> str:
    """How the head of the folder's last task is loaded and asked, as code."""
    task = next((task for task in reversed(config["heads"]) if task in _CLASSES), None)
    auto, own = _CLASSES.get(task, ("AutoModel", ""))
    module = f'get_class_from_dynamic_module("{FILE}.{own}", "{folder}")'
    names = [*sorted({*config["auto_map"], auto} - {"AutoConfig", ""}), "AutoProcessor"]
    return _LOADING.format(
        names=", ".join(names),
        more="" if auto else _FOUND,
        last=auto or module,
        trust=", trust_remote_code=True" if auto else "",
        folder=folder,
        inputs=_INPUTS.get(task, 'images="picture.jpg", text="a red cube"'),
    ) + "".join(
        f"\n\nThe head of {other} is in `{own}`, which no AutoModel finds: `get_class_from_dynamic_module("
        f'"{FILE}.{own}", "{folder}").from_pretrained("{folder}")`, of `transformers.dynamic_module_utils`.'
        for other, own in _alone(config).items()
        if other != task
    )


def _alone(config: dict[str, Any]) -> dict[str, str]:
    """The classes of heads that no AutoModel finds, by task."""
    return {task: _CLASSES[task][1] for task in config["heads"] if task in _CLASSES and not _CLASSES[task][0]}


def hub_config(source: ExportSource) -> dict[str, Any]:
    """The config.json of a model.

    Raises:
        UserError: one file of code cannot hold the model.
    """
    stored, resolved, model, settings = source.stored, source.resolved, source.model, source.resolved.settings
    heads = {task: facts for task, head in source.heads.items() if (facts := _head(task, head)) is not None}
    two = isinstance(model, TwoTower)
    labels = {str(number): name for each in resolved.labels.values() for number, name in enumerate(each)}
    classes = [_CLASSES[task] for task in heads if task in _CLASSES]
    auto = {"AutoConfig": "RenaissanceConfig", "AutoModel": "RenaissanceModel"}
    auto |= {name: own for name, own in classes if name}
    named = {"id2label": labels, "label2id": {name: int(number) for number, name in labels.items()}} if labels else {}
    return {
        "model_type": "renaissance",
        "architectures": ["RenaissanceModel", *(own for _, own in classes)][-1:],
        "auto_map": {name: f"{FILE}.{each}" for name, each in auto.items()},
        "model_kind": "two-tower" if two else "one-tower",
        "hidden_size": model.width,
        "vocab_size": settings.model.vocab_size,
        "pooling": [model.unimodal_pooling["text"], model.unimodal_pooling["image"]],
        "pools_image": model.image_pooler is not None,
        "towers": _towers(model) if two else {"blocks": _blocks(model)},
        "fusion": _fusion(resolved) if two else None,
        "embeddings": None if two else _own_embeddings(model),
        "contrast_size": SIZE if "itc" in source.heads else None,
        "heads": heads,
        **named,
        "dtype": "float32",
        "transformers_version": transformers.__version__,
        OURS: own_part(stored),
    }  # fmt: skip


def own_part(stored: Stored) -> dict[str, Any]:
    """What a checkpoint holds besides towers and tensors; `runs.exported` reads it."""
    of_machine = marked("command_only") | {"data_root"}
    return {
        "settings": {key: public(value) for key, value in stored.settings.items() if key not in of_machine},
        "image": stored.image,
        "labels": stored.labels,
        "step": stored.training["step"],
        "tasks": sorted({name.partition(".")[0] for name in stored.heads}),
        "tokenizer": sorted(stored.tokenizer),
    }


def processor_configs(stored: Stored, resolved: Resolved) -> dict[str, dict[str, Any]]:
    """The files of the processor by name.

    Raises:
        UserError: images are transformed in a way that the file of code does not know, or were hidden.
    """
    settings = resolved.settings
    transform = transform_of(settings, "val")
    key = settings.data.val_transform_keys[0]
    known = type(transform) in (CenterCrop, KeepAspect)
    require(known, f"val_transform_keys={key} is of a plugin, which an exported folder cannot hold.")
    image = {
        "image_processor_type": "RenaissanceImageProcessor",
        "size": transform.image_size,
        "keep_aspect": transform.keeps_aspect,
        "patch_size": transform.patch_size,
        "image_mean": stored.image["mean"],
        "image_std": stored.image["std"],
        "channels": stored.image.get("channels"),
        "auto_map": {"AutoImageProcessor": f"{FILE}.RenaissanceImageProcessor"},
    }
    processor = {
        "processor_class": "RenaissanceProcessor",
        "max_text_len": settings.model.max_text_len,
        "auto_map": {"AutoProcessor": f"{FILE}.RenaissanceProcessor"},
    }
    return {"preprocessor_config.json": image, "processor_config.json": processor}


def _tower(config: Any, kept: str | None) -> dict[str, Any]:
    """The facts that all towers have. kept: path of the norm that is applied to all tokens, None for none."""
    family = backbones.family_of(config)
    name = family.model if isinstance(family.model, str) else family.model.__name__
    own = getattr(transformers, name, None)
    require(
        own is not None and own is backbones.class_of(family),
        f"the {config.model_type} model brings code of its own, which one self-contained file cannot hold; export with "
        "format=safetensors.",
    )
    drop = [path for path in family.drop if path != kept]
    return {"class": name, "part": family.part, "drop": drop, "config": config.to_dict()}


def _towers(model: TwoTower) -> dict[str, Any]:
    text, image = model.text_tower, model.image_tower
    return {
        "text": _tower(text.config, None) | {"width": text.hidden_size, "token_types": text.takes_types},
        "image": _tower(image.config, image.norm_path) | {"width": image.hidden_size, "norm": image.norm_path},
    }


def _blocks(model: OneTower) -> dict[str, Any]:
    own = getattr(model, model.pretrained[1])
    family = backbones.family_of(model.blocks.config)
    stack = family.one_tower
    norm = None if isinstance(model.blocks.norm, nn.Identity) else stack.norm
    facts = _tower(model.blocks.config, norm) | {"norm": norm, "reads": family.modality}
    facts |= {"layers": stack.layers, "front": [*stack.front]}
    if isinstance(own, backbones.FamilyTextEmbeddings):
        return facts | {"token_types": own.takes_types}
    bilinear = backbones.facts_of(model.blocks.config).bilinear_positions
    return facts | {"patch_size": own.patch_size, "image_size": own.image_size, "bilinear_positions": bilinear}


def _own_embeddings(model: OneTower) -> dict[str, Any]:
    text, image = model.text_embeddings, model.image_embeddings
    if isinstance(text, TextEmbeddings):
        sizes = {"vocab_size": text.word.num_embeddings, "max_text_len": text.position.num_embeddings}
        return sizes | {"drop_rate": text.dropout.p}
    own: PatchEmbeddings = image
    norm = not isinstance(own.norm, nn.Identity)
    side = own.position.shape[-1] * own.patch_size
    return {"image_size": side, "patch_size": own.patch_size, "drop_rate": own.dropout.p, "norm": norm}


def _fusion(resolved: Resolved) -> dict[str, Any]:
    fusion = resolved.settings.model.fusion
    own = ", ".join(_OWN_FUSIONS)
    require(
        fusion.kind in _OWN_FUSIONS,
        f"fusion={fusion.kind} is of a plugin; an exported file knows {own}: export with format=safetensors.",
    )
    names = ("kind", "num_layers", "num_heads", "mlp_ratio", "drop_rate")
    return {name: getattr(fusion, name) for name in names}


def _head(task: str, head: nn.Module) -> dict[str, Any] | None:
    """What a head reads; None of a task that the file of code does not know."""
    if task == "itc":
        return {}
    if task not in _CLASSES:
        return None
    last = head.classifier if task in ("glue", "images") else head.head
    layers = [each for each in last.modules() if isinstance(each, nn.Linear)]
    facts = {
        "size": layers[0].in_features,
        "classes": layers[-1].out_features,
        "deep": len(layers) > 1,
        "reads": "fused",
    }
    if task == "glue":
        return facts | {"reads": "text" if head.pooler is not None else "fused", "drop_rate": head.dropout.p}
    if task == "images":
        return facts | {"reads": "image" if head.image_only else "fused"}
    return facts | {"drop_rate": 0.0}
