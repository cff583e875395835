"""Builds the model and the heads of a run: towers, fusion, heads; with pretrained, random or stored weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from renaissance.core.checks import is_exported
from renaissance.core.errors import require, shortened
from renaissance.data.randomness import torch_seed
from renaissance.models import backbones
from renaissance.models.embeddings import Normalize, PatchEmbeddings, TextEmbeddings
from renaissance.models.execution import enable_gradient_checkpointing
from renaissance.models.fusion import FusionStack
from renaissance.models.initialization import initialize
from renaissance.models.one_tower import OneTower
from renaissance.models.two_tower import TwoTower
from renaissance.runs import checkpoint
from renaissance.runs.stored import Stored
from renaissance.settings.bounds import bounded_building
from renaissance.settings.resolver import ConfigResolver
from renaissance.tasks import Context, Task, task_class

from .from_checkpoint import naming_checkpoint, same_benchmark
from .image_inputs import patch_drop, transform_of
from .resolution import Resolved, resolve


@dataclass
class Built:
    """A model with the heads of the chosen tasks."""

    model: TwoTower | OneTower
    heads: nn.ModuleDict
    notes: list[str] = field(default_factory=list)


def build(resolved: Resolved, *, pretrained: bool = True) -> Built:
    """Builds the model and the heads of the chosen tasks.

    Args:
        resolved: of `resolve`.
        pretrained: False leaves out the weights of pretrained encoders (a checkpoint brings them, or only the shape matters:
            `run.py check` builds on the meta device).
    """
    settings = resolved.settings
    notes = list(resolved.notes)
    torch.manual_seed(settings.run.seed)
    make = _one_tower if settings.model.model_type == "one-tower" else _two_tower
    model = make(resolved, pretrained and resolved.stored is None, notes)
    std = settings.model.initializer_range
    for module in model.fresh_modules():
        initialize(module, std)
    model.token_types.copy_image_row()
    if settings.machine.gradient_checkpointing:
        without = [part for part, layers in enable_gradient_checkpointing(model).items() if not layers]
        notes += [f"gradient_checkpointing: the {part} has no layers that can be recomputed" for part in without]
    heads = nn.ModuleDict()
    for name in settings.objectives.loss_names:
        torch.manual_seed(torch_seed(settings.run.seed, 0, 0, f"head {name}"))  # whichever other tasks are on
        context = Context(settings, settings.model.vocab_size, resolved.labels.get(name), resolved.tokenizer)
        head: Task = task_class(name)(model, context)
        initialize(head, std)
        heads[name] = head
    return Built(model, heads, notes)


def _weights(resolved: Resolved, key: str, pretrained: bool) -> str | None:
    tower = getattr(resolved.settings.model, key)
    return tower.name if pretrained and not tower.random else None


def _options(resolved: Resolved, key: str, pretrained: bool) -> dict[str, Any]:
    """The keyword arguments of `backbones.build_...` for one encoder."""
    settings = resolved.settings
    sizes = {name: getattr(settings.model, name) for name in ("image_size", "vocab_size", "max_text_len")}
    return {"weights": _weights(resolved, key, pretrained), "allow_download": settings.run.allow_download, **sizes}


def _two_tower(resolved: Resolved, pretrained: bool, notes: list[str]) -> TwoTower:
    model, configs = resolved.settings.model, resolved.configs
    text = backbones.build_text_tower(configs["text_encoder"], **_options(resolved, "text_encoder", pretrained))
    image = backbones.build_vision_tower(configs["image_encoder"], **_options(resolved, "image_encoder", pretrained))
    for key, tower in (("text_encoder", text), ("image_encoder", image)):
        _note(notes, tower.unused, getattr(model, key).name)
        if _weights(resolved, key, pretrained) is None and resolved.stored is None:
            initialize(tower, model.initializer_range)
    fusion = model.fusion
    stack = FusionStack(
        fusion.kind, fusion.num_layers, fusion.hidden_size, fusion.num_heads, fusion.mlp_ratio, fusion.drop_rate
    )
    built = TwoTower(text, image, stack, model.pooler_type, _normalize(resolved))
    parts = {"text_tower": model.text_encoder, "image_tower": model.image_encoder, "fusion": fusion}
    built.freeze(part for part, settings in parts.items() if settings.frozen)
    return built


def _one_tower(resolved: Resolved, pretrained: bool, notes: list[str]) -> OneTower:
    model = resolved.settings.model
    blocks, own = backbones.build_blocks(resolved.configs["encoder"], **_options(resolved, "encoder", pretrained))
    drop_rate = model.encoder.dimensions["drop_rate"] or 0.0
    if isinstance(own, backbones.FamilyTextEmbeddings):
        norm = backbones.facts_of(blocks.config).patch_norm
        text, image = own, PatchEmbeddings(blocks.hidden_size, model.image_size, model.patch_size, drop_rate, norm)
    else:
        text, image = TextEmbeddings(model.vocab_size, blocks.hidden_size, model.max_text_len, drop_rate), own
    _note(notes, blocks.unused, model.encoder.name)
    built = OneTower(blocks, text, image, model.pooler_type, _normalize(resolved))
    if _weights(resolved, "encoder", pretrained) is None and resolved.stored is None:
        for name in built.pretrained:
            initialize(getattr(built, name), model.initializer_range)
    built.freeze(built.pretrained if model.encoder.frozen else ())
    return built


def _normalize(resolved: Resolved) -> Normalize:
    return Normalize(resolved.image["mean"], resolved.image["std"], resolved.image.get("channels"))


def _note(notes: list[str], unused: tuple[str, ...], name: str) -> None:
    if unused:
        notes.append(f"{name}: {len(unused)} pretrained tensors are not used ({shortened(unused)})")


def build_on_meta(resolved: Resolved) -> Built:
    """Builds on the meta device: every shape, no memory. What cannot be built is refused here, before data is read."""
    run, stored = resolved.settings.run, resolved.stored
    held = None if stored is None else sum(each.nbytes for each in (*stored.model.values(), *stored.heads.values()))
    with naming_checkpoint(run.load_path, run.resume_from), torch.device("meta"), bounded_building(held):
        built = build(resolved, pretrained=False)
        if resolved.settings.data.patch_drop:
            _refuse_patch_drop(built, resolved)
        return built


def _refuse_patch_drop(built: Built, resolved: Resolved) -> None:
    """Refuses `patch_drop` where it would change nothing, or the image encoder cannot do without some of the patches."""
    settings, model = resolved.settings, built.model
    share = settings.data.patch_drop
    blind = [name for name in built.heads if task_class(name).images_per_sample == 0]
    require(not blind, f"patch_drop={share} would change nothing: {', '.join(blind)} reads no images; leave it out.")
    padded = transform_of(settings, "train").keeps_aspect
    require(
        not padded, f"patch_drop={share} cannot leave out patches of padded images; give another train_transform_keys."
    )
    key = "image_encoder" if isinstance(model, TwoTower) else "encoder"
    name = f"{key}={getattr(settings.model, key).name} (model type {resolved.configs[key].model_type})"
    reason = model.image_tower.needs_all_patches if isinstance(model, TwoTower) else ""
    require(
        not reason,
        f"patch_drop={share}: {name} needs all patches of an image: {reason}; leave patch_drop out, or give a model such as vit, "
        "deit, dinov2, clip or siglip.",
    )
    drop = patch_drop(settings, 1)
    require(
        0 < drop.count < drop.patches,
        f"patch_drop={share} of the {drop.patches} patches of an image leaves out none or all of them; give another share.",
    )


def restore(stored: Stored, path: str, *, trust_remote_code: bool = False) -> tuple[Resolved, Built]:
    """The model and all heads of a checkpoint, without a run; nothing is downloaded.

    A folder that transformers has saved again may hold one head of several: the others are left out.

    Args:
        path: of the checkpoint, for sentences.
        trust_remote_code: runs the code that an encoder brought; the checkpoint itself cannot allow it.

    Raises:
        UserError: it holds no whole model.
    """
    own = {"trust_remote_code": trust_remote_code, "allow_download": False}
    with naming_checkpoint(path):
        resolver = ConfigResolver.from_checkpoint(stored.settings, path, **own)
        resolved = resolve(resolver, stored, reads_data=False)
    build_on_meta(resolved)
    built = build(resolved, pretrained=False)
    there = {name.partition(".")[0] for name in stored.heads} if is_exported(path) else built.heads.keys()
    for name in [name for name, head in built.heads.items() if name not in there and head.state_dict()]:
        del built.heads[name]
    checkpoint.load_state_dicts(built.model, built.heads, stored, path).refuse_missing("load_path")
    return resolved, built


def load_weights(built: Built, resolved: Resolved) -> None:
    """Copies the checkpoint's weights into the model; heads of another benchmark are left out.

    Raises:
        UserError: weights are missing that a resumed run, or an evaluation, needs.
    """
    settings, stored = resolved.settings, resolved.stored
    if stored is None:
        return
    path = settings.run.resume_from or settings.run.load_path
    other = [name for name in built.heads if not same_benchmark(name, stored, settings)]
    taken = {key: tensor for key, tensor in stored.heads.items() if key.partition(".")[0] not in other}
    report = checkpoint.load_state_dicts(built.model, built.heads, stored._replace(heads=taken), path)
    built.notes += str(report).splitlines()
    if settings.run.test_only:
        there = ", ".join(sorted({key.partition(".")[0] for key in stored.heads} - {*other})) or "none"
        missing = {tuple(name.split(".")[:2]) for name in report.missing}
        for name, head in built.heads.items():
            loaded = {part for key in head.state_dict() if (name, part := key.partition(".")[0]) not in missing}
            built.notes += head.use_loaded(loaded, f"load_path={path} (its heads: {there})")
    if settings.run.resume_from is None:
        return
    report.refuse_missing("resume_from")
    built.notes += [
        f"{key}={settings.flat[key]} (the run began with {stored.settings.get(key)}): from here on the schedule of the "
        "learning rate, patch_drop_until and first_steps are of the new length"
        for key in ("max_steps", "max_epoch")
        if settings.flat[key] != stored.settings.get(key)
    ]
