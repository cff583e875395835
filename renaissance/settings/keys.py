"""Groups of settings."""

from __future__ import annotations

from .declared import SETTINGS

TOWERS = {"one-tower": ("encoder",), "two-tower": ("image_encoder", "text_encoder")}
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
TYPE_KEYS = {"one-tower": _group("One-tower"), "two-tower": _group("Two-tower")}
AUTO = "auto"  # resume_from: the newest run of the same command
# Settings that came after runs had an identity (runs/identity.py): what resume_from=auto finds must not depend on them. A fact of
# old run folders, not of the settings.
YOUNGER = frozenset(
    [
        "cache_dir",
        "caption_column",
        "class_names",
        "eccv_caption",
        "eval_limit",
        "first_datasets",
        "first_steps",
        "frozen_features",
        "image_column",
        "knn_neighbours",
        "lr_mult_random",
        "max_time",
        "mlm_stop_words",
        "patch_drop",
        "patch_drop_until",
        "probe_score",
        "shot_draws",
        "shots_per_class",
        "templates",
    ]
)

# Widths, each with the heads that must divide it.
HEADS = {f"{prefix}hidden_size": f"{prefix}num_heads" for prefix, _, _ in TOWER_KEYS.values()}
HEADS["cross_layer_hidden_size"] = "num_cross_layer_heads"


def marked(mark: str) -> frozenset[str]:
    """The settings whose declaration has a mark of `core.checks.Check`, those of plugins among them."""
    return frozenset(key for key, setting in SETTINGS.items() if mark in setting.check.marks)


def model_keys() -> frozenset[str]:
    """Settings that a checkpoint fixes for a run with load_path; resume_from fixes all."""
    keys = (key for key, setting in SETTINGS.items() if setting.section == "model")
    return frozenset(key for key in keys if not key.startswith(("freeze_", "initializer_range")))
