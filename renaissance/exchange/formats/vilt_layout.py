"""format=vilt: a one-tower of ViT blocks as a ViLT of transformers, without code."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers import ViltConfig, ViltImageProcessor, ViltModel, ViltProcessor

from renaissance.core.errors import require
from renaissance.data.transforms import KeepAspect
from renaissance.models import backbones
from renaissance.models.embeddings import TextEmbeddings
from renaissance.models.one_tower import OneTower
from renaissance.training.image_inputs import transform_of

from .dual_encoder import center_crop, is_cropped
from .source import ExportSource, save_tensors

FORMAT = "vilt"
# The class for the head of a task, a later one before an earlier one.
_CLASSES = {
    "mlm": "ViltForMaskedLM",
    "irtr": "ViltForImageAndTextRetrieval",
    "nlvr2": "ViltForImagesAndTextClassification",
    "vqa": "ViltForQuestionAnswering",
}
_TEXT = {
    "word": "word_embeddings",
    "position": "position_embeddings",
    "segment": "token_type_embeddings",
    "norm": "LayerNorm",
}
_MLM = {
    "transform.": "mlm_score.transform.dense.",
    "norm.": "mlm_score.transform.LayerNorm.",
    "decoder.": "mlm_score.decoder.",
}


@torch.no_grad()
def write(source: ExportSource, folder: Path) -> list[str]:
    """Writes the files into a folder; returns what to tell.

    Raises:
        UserError: a ViLT cannot hold the model.
    """
    model, transform = source.model, transform_of(source.resolved.settings, "val")
    fits = isinstance(model, OneTower) and isinstance(model.text_embeddings, TextEmbeddings)
    fits = fits and model.blocks.config.model_type == "vit" and model.image_pooler is None
    own = f"format={FORMAT} holds one-towers of a ViT with pooler_type=single alone; give format=transformers."
    require(fits, own)
    keeps, bilinear = isinstance(transform, KeepAspect), backbones.facts_of(model.blocks.config).bilinear_positions
    other = f"format={FORMAT}: ViLT interpolates positions for images that keep their aspect otherwise than this model."
    require(bilinear or not keeps, other)
    task = next((each for each in reversed(_CLASSES) if each in source.heads), None)
    kind = getattr(transformers, _CLASSES[task]) if task else ViltModel
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        _config(source, task).save_pretrained(made)
        tensors = _tensors(source, task, Path(made))
        save_tensors(tensors, Path(made) / "model.safetensors")
        vilt, info = kind.from_pretrained(made, local_files_only=True, output_loading_info=True)
    wrong = [*info["missing_keys"], *info["mismatched_keys"]]
    require(
        not wrong,
        f"format={FORMAT}: transformers {transformers.__version__} names the tensors of ViLT otherwise; please report it.",
    )
    _check(source, vilt.eval(), task)
    vilt.save_pretrained(folder)
    notes = [f"the head of {name} has no place in {kind.__name__}" for name in source.heads if name != task]
    if task == "mlm":  # ViltConfig says that they are tied, whatever it is given
        notes.append("transformers will warn that word embeddings and decoder are not tied: both are kept as they are")
    processors, more = _write_processor(source, transform, folder)
    notes += more
    source.classes = [kind.__name__]
    loads = [f'{each.lower()} = {each}.from_pretrained("{folder.name}")' for each in processors.split(", ")]
    loading = "\n".join([f'model = {kind.__name__}.from_pretrained("{folder.name}")', *loads])
    source.loading = f"```python\nfrom transformers import {kind.__name__}, {processors}\n\n{loading}\n```"
    return [f"class: {kind.__name__}", *notes]


def _config(source: ExportSource, task: str | None) -> ViltConfig:
    model, vit = source.model, source.model.blocks.config
    same = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "hidden_act",
        "hidden_dropout_prob",
    )
    same += ("attention_probs_dropout_prob", "layer_norm_eps", "patch_size", "qkv_bias", "num_channels")
    labels = source.resolved.labels.get(task) or ()
    named = {"id2label": dict(enumerate(labels)), "label2id": {name: number for number, name in enumerate(labels)}}
    return ViltConfig(
        **{name: getattr(vit, name) for name in same},
        **(named if labels else {}),
        image_size=model.image_embeddings.image_size,
        vocab_size=model.text_embeddings.word.num_embeddings,
        max_position_embeddings=model.text_embeddings.position.num_embeddings,
        modality_type_vocab_size=3 if task == "nlvr2" else 2,
        max_image_length=-1,
        num_images=2 if task == "nlvr2" else -1,
        architectures=[_CLASSES.get(task, "ViltModel")],
    )


def _tensors(source: ExportSource, task: str | None, made: Path) -> dict[str, Tensor]:
    """Every tensor by the name that the Hub's ViLT models give it."""
    model, start = source.model, "vilt." if task else ""
    vit = transformers.ViTModel(model.blocks.config, add_pooling_layer=False)
    vit.embeddings.load_state_dict(model.image_embeddings.front[0].state_dict())
    stack = backbones.family_of(model.blocks.config).one_tower
    vit.get_submodule(stack.layers).load_state_dict(model.blocks.layers.state_dict())
    vit.get_submodule(stack.norm).load_state_dict(model.blocks.norm.state_dict())
    vit.save_pretrained(made / "vit")  # by the names of the Hub, which ViLT shares
    tensors = {start + name: tensor for name, tensor in load_file(made / "vit" / "model.safetensors").items()}
    for ours, theirs in _TEXT.items():
        for name, tensor in getattr(model.text_embeddings, ours).state_dict().items():
            tensors[f"{start}embeddings.text_embeddings.{theirs}.{name}"] = tensor
    types = model.token_types.embedding.weight
    tensors[f"{start}embeddings.token_type_embeddings.weight"] = types if task == "nlvr2" else types[:2]
    tensors |= {f"{start}pooler.{name}": tensor for name, tensor in model.text_pooler.state_dict().items()}
    state = {} if task is None else source.heads[task].head.state_dict()
    if task == "mlm":
        state = {
            theirs + name.removeprefix(ours): state[name]
            for ours, theirs in _MLM.items()
            for name in state
            if name.startswith(ours)
        }
        state["mlm_score.bias"] = state["mlm_score.decoder.bias"]
    elif task == "irtr":  # one number: the log-odds
        state = {
            f"rank_output.{name.rpartition('.')[2]}": (each[1] - each[0]).unsqueeze(0) for name, each in state.items()
        }
    else:
        state = {f"classifier.{name}": each for name, each in state.items()}
    return tensors | state


def _check(source: ExportSource, vilt: Any, task: str | None) -> None:
    """Compares both on the probe: pooled vectors, and the logits of the head."""
    text, image = source.probe()
    model, inputs = source.model, source.inputs()
    tokens, shown = model.embed_text(text), model.embed_image(image)
    fused = model.fuse(tokens, shown)
    body = vilt if task is None else vilt.vilt
    source.refuse_difference(body(**inputs).pooler_output, fused.pooled, FORMAT)
    if task is None:
        return
    if task == "nlvr2":
        inputs["pixel_values"] = inputs["pixel_values"].unsqueeze(1).repeat(1, 2, 1, 1, 1)
        pooled = torch.cat([fused.pooled, model.fuse(tokens, shown, 1).pooled], dim=1)
        expected = source.heads[task].head(pooled)
    elif task == "mlm":
        expected = source.heads[task].head(fused.text)
    else:
        expected = source.heads[task].head(fused.pooled)
    found = vilt(**inputs).logits
    expected = (expected[:, 1:] - expected[:, :1]) if task == "irtr" else expected
    source.refuse_difference(found, expected, FORMAT)


def _write_processor(source: ExportSource, transform: Any, folder: Path) -> tuple[str, list[str]]:
    """Writes the files of tokenizer and image processor; returns the classes that load them, and what to tell."""
    tokenizer, image = source.resolved.tokenizer, source.stored.image
    if isinstance(transform, KeepAspect) and not image.get("channels"):
        processor = ViltImageProcessor(
            size={"shortest_edge": transform.image_size},
            size_divisor=transform.patch_size,
            image_mean=image["mean"],
            image_std=image["std"],
        )
        ViltProcessor(processor, tokenizer).save_pretrained(folder)
        return "ViltProcessor", []
    tokenizer.save_pretrained(folder)
    if not is_cropped(source):
        return "AutoTokenizer", ["no image processor of transformers makes the images that this model learned from"]
    center_crop(source, FORMAT).save_pretrained(folder)
    note = "ViltProcessor would keep the aspect of images, and this model learned from squares: CLIPImageProcessor makes them"
    return "AutoTokenizer, CLIPImageProcessor", [note]
