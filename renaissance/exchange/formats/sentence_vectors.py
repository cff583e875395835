"""format=sentence_transformers: texts and images to contrastive vectors, as SentenceTransformer loads it.

A two-tower needs no code: a Router with a route for each side, of Transformer, Pooling and Dense. Other models bring the file of
`own_code`, and are loaded with trust_remote_code=True.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from renaissance.core.errors import UserError, require
from renaissance.models.two_tower import TwoTower

from . import own_code
from .dual_encoder import center_crop, is_cropped, needed, require_contrastive, vectors_of
from .source import CLOSE, TEXTS, ExportSource, save_tensors

FORMAT = "sentence_transformers"
_POOLING = {"first": "cls", "mean": "mean", "last": "lasttoken"}


@torch.no_grad()
def write(source: ExportSource, folder: Path) -> list[str]:
    """Writes the files into a folder; returns what to tell.

    Raises:
        UserError: sentence-transformers is not installed, or the model has no contrastive head.
    """
    try:
        import sentence_transformers as library
    except ImportError:
        raise UserError(
            f"format={FORMAT} needs the package sentence-transformers: pip install 'sentence-transformers>=5.4'."
        ) from None
    require_contrastive(source, FORMAT)
    with tempfile.TemporaryDirectory(dir=folder.parent) as parts:
        made, option = _made(library, _router, source, Path(parts)) if _has_route(source) else None, ""
        if made is None:
            made, option = _made(library, _with_code, source, Path(parts)), ", trust_remote_code=True"
        require(
            made is not None,
            f"format={FORMAT} cannot hold this model: it would compute something else; give format=transformers.",
        )
        made.save(str(folder), create_model_card=False)
    source.loading = (
        "```python\nfrom PIL import Image\nfrom sentence_transformers import SentenceTransformer\n\n"
        f'model = SentenceTransformer("{folder.name}"{option})\n'
        'texts, images = model.encode(["a red cube"]), model.encode([Image.open("picture.jpg")])\n'
        "print(model.similarity(texts, images))\n```"
    )
    return [f'SentenceTransformer("{folder.name}"{option}) loads it; texts and images give vectors of length 1']


def _has_route(source: ExportSource) -> bool:
    """Whether modules of the library may do: for towers of their own, and images that it can transform."""
    return isinstance(source.model, TwoTower) and is_cropped(source)


def _made(library: Any, first: Callable[[ExportSource, Path], Any], source: ExportSource, parts: Path) -> Any:
    """A SentenceTransformer that begins with a module; None where it does not compute the vectors of the checkpoint."""
    from sentence_transformers.sentence_transformer.modules import Normalize

    try:
        made = library.SentenceTransformer(
            modules=[first(source, parts), Normalize()], device="cpu", similarity_fn_name="cosine"
        )
        _, images = source.probe()
        shown = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in images.pixels]
        found = [made.encode(each, convert_to_tensor=True) for each in ([*TEXTS], shown)]
    except (OSError, UserError):
        raise
    except Exception:  # the library may fail in any way over a family that it does not know
        return None
    expected = vectors_of(source)
    close = all((a.cpu() - b).abs().max() < CLOSE for a, b in zip(found, expected, strict=True))
    return made if close else None


def _router(source: ExportSource, parts: Path) -> Any:
    """A route for each side, of modules that the library has."""
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Router, Transformer

    model, itc = needed(source, FORMAT), source.heads["itc"]
    routes = {}
    for side in ("text", "image"):
        tower, projection, last = (
            getattr(model, f"{side}_tower"),
            getattr(model, f"{side}_projection"),
            getattr(itc, side),
        )
        folder = parts / side
        tower.config.save_pretrained(folder)
        save_tensors(tower.model.state_dict(), folder / "model.safetensors")
        (center_crop(source, FORMAT) if side == "image" else source.resolved.tokenizer).save_pretrained(folder)
        dense = Dense(tower.hidden_size, last.out_features, activation_function=None)
        dense.linear.weight.copy_(last.weight @ projection.weight)
        dense.linear.bias.copy_(last.weight @ projection.bias)
        encoder = Transformer(str(folder), config_kwargs={"local_files_only": True})
        routes[side] = [encoder, Pooling(tower.hidden_size, _POOLING[tower.pooling]), dense]
    routes["text"][0].max_seq_length = source.resolved.settings.model.max_text_len
    return Router(routes, default_route="text", route_mappings={(None, "text"): "text", (None, "image"): "image"})


def _with_code(source: ExportSource, parts: Path) -> Any:
    """The model as `own_code` writes it."""
    from sentence_transformers.sentence_transformer.modules import Transformer

    folder = parts / "whole"
    folder.mkdir()
    own_code.write(source, folder)
    methods = {
        side: {"method": f"get_{side}_features", "method_output_name": "pooler_output"} for side in ("text", "image")
    }
    trusted = {"trust_remote_code": True, "local_files_only": True}  # our own file
    options = dict.fromkeys(("model_kwargs", "processor_kwargs", "config_kwargs"), trusted)
    return Transformer(str(folder), modality_config=methods, module_output_name="sentence_embedding", **options)
