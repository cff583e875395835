"""From a command's settings to everything that decides what is built: asks the pretrained models what no setting gives.

`resolve` reads configurations and tokenizers, a few kilobytes, so that a model that cannot serve is refused before any data
or weight is read. A checkpoint brings both: nothing is asked of the Hub.
"""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from renaissance.core.errors import UserError, require
from renaissance.models import backbones
from renaissance.runs.stored import Stored
from renaissance.settings.declared import SETTINGS
from renaissance.settings.keys import DIMENSIONS, TOWER_KEYS
from renaissance.settings.resolver import ConfigResolver, SettingsError
from renaissance.settings.sections import Settings
from renaissance.tasks import settle_first_datasets

from . import from_checkpoint

MODALITY = {"encoder": None, "image_encoder": "image", "text_encoder": "text"}
HALF = [0.5, 0.5, 0.5]  # mean and standard deviation of pixels where no pretrained vision model has others


class Resolved(NamedTuple):
    """Everything that decides what is built.

    Attributes:
        settings: complete.
        configs: configuration of each tower by its key.
        tokenizer: a fast tokenizer with mask and padding tokens.
        image: {"mean", "std"} of the pixels that the model expects, and "channels", their order where it is not RGB.
        stored: the checkpoint that the run starts from or continues, or None.
        notes: lines for the report.
        labels: the vocabulary of answers of each task that has one.
    """

    settings: Settings
    configs: dict[str, PreTrainedConfig]
    tokenizer: PreTrainedTokenizerBase
    image: dict[str, list[float]]
    stored: Stored | None
    notes: list[str]
    labels: dict[str, tuple[str, ...]]


def resolve(resolver: ConfigResolver, stored: Stored | None = None, *, reads_data: bool = True) -> Resolved:
    """Completes the settings: given > checkpoint > model > fallback.

    Args:
        resolver: the settings of a command; it is completed in place.
        stored: the checkpoint named by load_path or resume_from.
        reads_data: False takes vocabularies of answers that only data files know to be of their usual size.

    Raises:
        SettingsError, UserError: a setting contradicts the checkpoint or a model, or a model cannot serve.
    """
    answered = from_checkpoint.fill_settings(resolver, stored) if stored is not None else frozenset()
    resolver.name_towers()
    settle_first_datasets(resolver)
    download = resolver["allow_download"]
    notes: list[str] = []
    if stored is None:
        configs = {key: _tower_config(resolver, key, download, notes) for key in resolver.towers()}
        tokenizer, image = _from_models(resolver, configs, download, notes)
    else:
        from_checkpoint.refuse_unused(resolver, stored, answered)
        configs, tokenizer = from_checkpoint.read_models(resolver, stored, notes)
        image = stored.image
    with from_checkpoint.naming_checkpoint(None, resolver["resume_from"]):
        settings = resolver.finalize()
    labels = from_checkpoint.label_vocabularies(settings, stored, reads_data, notes)
    return Resolved(settings, configs, tokenizer, image, stored, notes, labels)


def _tower_config(resolver: ConfigResolver, key: str, download: bool, notes: list[str]) -> PreTrainedConfig:
    """The configuration of one tower, with the sizes that its settings give; answers for those they leave open."""
    tower, (prefix, random_key, _) = resolver.tower(key), TOWER_KEYS[key]
    config = backbones.read_config(
        tower.name,
        modality=MODALITY[key],
        allow_download=download,
        trust_remote_code=resolver["trust_remote_code"],
        untrained=tower.random,
        notes=notes,
    )
    backbones.check_modality(config, tower.name, key)
    if not tower.random:
        backbones.check_weights(tower.name, random_key)
    sizes = tower.dimensions if tower.manual else {"drop_rate": tower.dimensions["drop_rate"]}
    try:
        config = backbones.override_dimensions(config, **sizes)
    except UserError as error:
        raise UserError(f"{key}={tower.name}: {error}") from error
    dims = backbones.encoder_dimensions(config, tower.name)
    absent = [name for name in DIMENSIONS if tower.dimensions[name] is not None and dims[name] is None]
    if absent:
        kind = f"{tower.name} (model type {config.model_type})"
        raise SettingsError([f"{prefix}{name}: {kind} has no one {name} to set; leave it out." for name in absent])
    resolver.fill_defaults(f"model {tower.name}", {prefix + name: dims[name] for name in DIMENSIONS})
    return config


def _from_models(
    resolver: ConfigResolver, configs: dict[str, PreTrainedConfig], download: bool, notes: list[str]
) -> tuple[PreTrainedTokenizerBase, dict[str, list[float]]]:
    """Resolves tokenizer, text length and image size by what the pretrained models say."""
    image = {"mean": HALF, "std": HALF}
    text_name, text_rows = None, 0  # rows of the pretrained word embeddings
    for key, config in configs.items():
        tower = resolver.tower(key)
        said = None if tower.random else notes
        processor = backbones.read_image_processor(tower.name, config, allow_download=download, notes=said)
        dims = backbones.encoder_dimensions(config, tower.name, processor)
        if backbones.family_of(config).modality == "text":
            text_name, text_rows = tower.name, 0 if tower.random else dims["vocab_size"] or inf
            if (dims["max_text_len"] or inf) < SETTINGS["max_text_len"].check.fallback:
                resolver.fill_open({"max_text_len": dims["max_text_len"]}, f"model {tower.name}")
        else:
            image = {key: value for key, value in (processor or image).items() if key != "size"}
            _resolve_image(resolver, tower.name, dims, tower.random)
            configs[key] = _with_image_sizes(config, resolver) if tower.random else config
    require(
        not resolver["original_image_size"] or any(resolver.tower(key).name != text_name for key in configs),
        f"original_image_size={resolver['original_image_size']}: {text_name} reads text; leave it out.",
    )
    resolver.fill_open({"tokenizer": text_name}, f"model {text_name}")
    resolver.fill_fallbacks(["tokenizer"])
    tokenizer, lines = backbones.load_tokenizer(resolver["tokenizer"], allow_download=download)
    notes += lines
    if text_rows and resolver["tokenizer"] != text_name:
        _same_vocabulary(resolver, tokenizer, text_name, download, notes)
    pieces = backbones.vocabulary_rows(tokenizer)
    resolver.fill_defaults(f"tokenizer {resolver['tokenizer']}", {"vocab_size": pieces})
    if text_rows and pieces > text_rows:
        notes.append(
            f"{text_name} has {text_rows} word embeddings and its tokenizer {pieces} pieces: the new ones start from the mean"
        )
    return tokenizer, image


def _resolve_image(resolver: ConfigResolver, name: str, dims: dict[str, Any], scratch: bool) -> None:
    """Image and patch size: those of a pretrained encoder; one with random weights takes what is given."""
    image, patch, given = dims["image_size"], dims["patch_size"], resolver["patch_size"]
    require(patch or not given, f"patch_size={given}: {name} has no patches; leave it out.")
    sizes = {"image_size": image, "original_image_size": image, "patch_size": patch}
    may_differ = ("image_size", "patch_size") if scratch else ("image_size",)
    resolver.fill_defaults(f"model {name}", sizes, may_differ=may_differ)


def _with_image_sizes(config: PreTrainedConfig, resolver: ConfigResolver) -> PreTrainedConfig:
    """The configuration with the resolved image sizes; those that the family does not have stay out."""
    dims = backbones.encoder_dimensions(config)
    sizes = {name: resolver[name] for name in ("image_size", "patch_size") if dims[name] is not None}
    return backbones.override_dimensions(config, **sizes)


def _same_vocabulary(
    resolver: ConfigResolver, tokenizer: PreTrainedTokenizerBase, text_name: str, download: bool, notes: list[str]
) -> None:
    try:
        own, _ = backbones.load_tokenizer(text_name, allow_download=download)
    except backbones.NoTokenizerError:
        notes.append(f"tokenizer={resolver['tokenizer']}: not compared with that of {text_name}, which brings none")
        return
    require(
        own.get_vocab() == tokenizer.get_vocab(),
        f"tokenizer={resolver['tokenizer']} has another vocabulary than {text_name} was pretrained with; leave tokenizer out, or "
        "train the text encoder from random weights.",
    )
