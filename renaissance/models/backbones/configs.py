"""Makes configurations of untrusted values: a config.json, or a tower in a checkpoint.

Only fields that the model's own class declares are taken, within bounds. Others on which transformers would act (names of other
files, of Hub kernels, of backbones to download, quantisation, code) are left out.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

from transformers import PreTrainedConfig

from renaissance.core.errors import UserError, printable, require
from renaissance.core.untrusted import expect, short

from .facts import Facts
from .families import DUAL

# Of the fields that every configuration has.
_COMMON = frozenset({"architectures", "is_encoder_decoder"})
# Former names, which transformers still reads; and what models read that their classes do not declare (DeBERTa-v3 has some).
_FORMER = frozenset(
    {"rope_theta", "rope_scaling", "local_rope_theta", "global_rope_theta", "global_attn_every_n_layers"}
)
UNDECLARED = frozenset(
    {
        *("attention_head_size", "cls_dropout", "conv_act", "conv_groups", "conv_kernel_size", "embedding_size", "head_dim"),
        *("norm_rel_ebd", "num_key_value_heads", "pooler_hidden_size", "position_buckets", "share_att_key", "talking_head"),
        *("tie_word_embeddings", "use_esm_attn_map", *Facts._fields),
    }
)  # fmt: skip
_NESTED = frozenset({"rope_parameters", "rope_scaling"})  # fields that hold an object of plain values
_COUNTS = re.compile(r"layer|depth|block|stage|expert")  # numbers of modules, each of which takes time to build
_NO_COUNTS = re.compile(r"norm|drop|prob|scale|size|types|freq")
MOST_LAYERS, MOST = 4096, 2**31

# What timm's models take of a config.json: sizes, switches and names of their own layers; nothing that names a file, a
# place in the network or code.
TIMM_ARGUMENTS = frozenset(
    {
        *("img_size", "patch_size", "embed_dim", "depth", "depths", "dims", "num_heads", "mlp_ratio", "window_size"),
        *("drop_rate", "drop_path_rate", "attn_drop_rate", "proj_drop_rate", "pos_drop_rate", "patch_drop_rate"),
        *("class_token", "reg_tokens", "no_embed_class", "qkv_bias", "qk_norm", "init_values", "pre_norm", "final_norm"),
        *("fc_norm", "global_pool", "pos_embed", "dynamic_img_size", "dynamic_img_pad", "strict_img_size", "always_partition"),
        *("mlp_layer", "conv_mlp", "use_grn", "stem_type", "rope_type", "reg_token_pos", "use_pos_emb", "use_rot_pos_emb"),
        *("swiglu_mlp", "scale_mlp", "scale_attn_inner", "use_post_norm", "use_fc_norm", "conv_bias", "stem_stride"),
        *("output_stride", "in_chans", "act_layer", "norm_layer", "ls_init_value", "use_abs_pos_emb", "use_rel_pos_bias"),
    }
)  # fmt: skip
_TIMM_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")


def make_config(values: dict[str, Any], config_class: type[PreTrainedConfig], name: str) -> PreTrainedConfig:
    """Makes a configuration of the fields that its class declares.

    Args:
        values: of a config.json. name: whose they are, for the sentence.

    Raises:
        UserError: a field is of the wrong type, out of bounds, or needs a feature that is not supported.
    """
    kept = _declared(values, config_class, name)
    try:
        return config_class(**kept)
    except Exception as error:  # the class may fail in any way over a value
        reason = " ".join(printable(line.strip()) for line in str(error).splitlines() if line.strip())
        raise UserError(f"The configuration of {name} cannot be read: {reason or type(error).__name__}") from error


def _declared(values: dict[str, Any], config_class: type[PreTrainedConfig], name: str) -> dict[str, Any]:
    quantised = f"{name} is quantised (quantization_config), which cannot be trained: give the model it was made of."
    require(not values.get("quantization_config"), quantised)
    common = {each.name for each in dataclasses.fields(PreTrainedConfig)}
    declared = {each.name for each in dataclasses.fields(config_class)} - common
    allowed = declared | _COMMON | _FORMER | UNDECLARED | set(config_class.attribute_map)
    halves = set(DUAL.get(config_class.model_type, {}).values())
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if (half := key.removesuffix("_dict")) in halves:
            expect(value, dict[str, Any] | None, f"{key} in the configuration of {name}")
            kept[key] = value and _declared(value, config_class.sub_configs[half], name)
        elif key in allowed and (not isinstance(value, dict) or key in _NESTED):
            _refuse_extreme(key, value, f"The configuration of {name}")
            kept[key] = value
    if config_class.model_type == "timm_wrapper":
        kept |= _timm(values, f"The configuration of {name}")
    return kept


def _refuse_extreme(key: str, value: Any, what: str) -> None:
    """Refuses numbers out of bounds before a class makes lists or modules of them."""
    most = MOST_LAYERS if _COUNTS.search(key) and not _NO_COUNTS.search(key) else MOST
    for each in _numbers(value):
        fits = abs(each) <= most  # NaN does not
        require(fits, f"{what} has {printable(key)}={each}, which is no size of a model.")


def _numbers(value: Any) -> list[int | float]:
    if isinstance(value, dict):
        value = [*value.values()]
    if isinstance(value, (list, tuple)):
        return [math.inf] if len(value) > MOST_LAYERS else [number for each in value for number in _numbers(each)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def _timm(values: dict[str, Any], what: str) -> dict[str, Any]:
    """The fields that reach `timm.create_model`, whose name may be an address and whose keywords may name files."""
    architecture = values.get("architecture", "resnet50")
    named = isinstance(architecture, str) and _TIMM_NAME.fullmatch(architecture)
    require(named, f"{what} has architecture={short(architecture)}, which is no name of a timm model.")
    arguments = expect(values.get("model_args") or {}, dict[str, Any], f"{what}: model_args")
    unknown = printable(", ".join(sorted(set(arguments) - TIMM_ARGUMENTS)))
    allowed = "only sizes, switches and names of layers are"
    require(not unknown, f"{what} has model_args {unknown}, which this program hands to no model; {allowed}.")
    for key, value in arguments.items():
        numbers = value if isinstance(value, list) else [value]
        plain = all(each is None or isinstance(each, (int, float)) for each in numbers)
        plain = plain or (isinstance(value, str) and _TIMM_NAME.fullmatch(value))
        require(plain, f"{what}: model_args {key}={short(value)} is no value of a timm model.")
        _refuse_extreme(key, value, what)
    return {"architecture": architecture, "model_args": arguments or None}
