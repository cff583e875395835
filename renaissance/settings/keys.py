"""Groups of settings, and the fallbacks of those that are not given."""

from __future__ import annotations

from .declared import SETTINGS

# Tower -> what its sizes' keys begin with, the key of random weights, the key of freezing.
TOWER_KEYS = {
    "encoder": ("", "random_init_encoder", "freeze_encoder"),
    "image_encoder": ("image_encoder_", "random_init_vision_encoder", "freeze_image_encoder"),
    "text_encoder": ("text_encoder_", "random_init_text_encoder", "freeze_text_encoder"),
}
# Sizes of a tower, by what their keys end with.
DIMENSIONS = ("hidden_size", "num_heads", "num_layers", "mlp_ratio", "drop_rate", "embedding_size")

# The settings of the fusion, by their plain names.
FUSION = {
    "kind": "fusion", "hidden_size": "cross_layer_hidden_size", "num_layers": "num_cross_layers",
    "num_heads": "num_cross_layer_heads", "mlp_ratio": "cross_layer_mlp_ratio", "drop_rate": "cross_layer_drop_rate",
    "frozen": "freeze_cross_modal_layers",
}  # fmt: skip


def _group(title: str) -> tuple[str, ...]:
    """The settings of the groups whose titles begin so."""
    return tuple(key for key, setting in SETTINGS.items() if setting.heading.startswith(title))


# Keys that mean something to one type of model only.
TYPE_KEYS = {
    "one-tower": (*_group("One-tower"), "freeze_encoder"),
    "two-tower": (*_group("Two-tower"), "freeze_image_encoder", "freeze_text_encoder", "freeze_cross_modal_layers"),
}
# What a command may ask otherwise than the checkpoint or model has it: the weights are adapted, and the report says so.
ADAPTABLE = frozenset(["image_size", "max_text_len", *(key for key in SETTINGS if key.endswith("drop_rate"))])
# What a checkpoint also answers where it is only evaluated, so that its numbers are those of its run.
EVALUATION_KEYS = frozenset(
    {"seed", "mlm_prob", "whole_word_masking", "draw_false_image", "negative_group", "eval_batch_size"}
    | {"val_transform_keys", "draw_false_text", "text_only", "image_only", "blind"}
)
AUTO = "auto"  # resume_from: the newest run of the same command
# How a command starts, and what it may fetch and run, which no checkpoint answers.
START_KEYS = frozenset(
    ["resume_from", "load_path", "test_only", "fast_dev_run", "trust_remote_code", "allow_download", "plugins"]
)
# Where a run lies, which the path of its checkpoint says, and the checkpoint does not: it may come from anybody.
PLACE_KEYS = frozenset(["log_dir", "exp_name"])
# Settings that came after runs had an identity (runs/identity.py); what resume_from=auto finds must not depend on them.
YOUNGER = frozenset(["eval_limit", "lr_mult_random", "max_time"])
FALLBACK_TOWERS = {
    "image_encoder": "facebook/deit-tiny-patch16-224",
    "text_encoder": "google/electra-small-discriminator",
}
FALLBACK_TOKENIZER = "google-bert/bert-base-uncased"
FALLBACKS = {
    "image_size": 224, "max_text_len": 50, "fusion": "shared", "cross_layer_hidden_size": 256,
    "num_cross_layers": 6, "cross_layer_mlp_ratio": 4, "cross_layer_drop_rate": 0.1,
}  # fmt: skip

# Widths, each with the heads that must divide it.
HEADS = {f"{prefix}hidden_size": f"{prefix}num_heads" for prefix, _, _ in TOWER_KEYS.values()}
HEADS["cross_layer_hidden_size"] = "num_cross_layer_heads"


def model_keys() -> tuple[str, ...]:
    """Settings that a checkpoint fixes for a run with load_path; resume_from fixes all."""
    return tuple(
        key
        for key, setting in SETTINGS.items()
        if setting.section == "model" and not key.startswith(("freeze_", "initializer_range"))
    )


def resumable() -> frozenset[str]:
    """Settings that a resumed run may change."""
    return frozenset(key for key, setting in SETTINGS.items() if setting.check.resumable)
