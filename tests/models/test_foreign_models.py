"""What a model's files say is data: it runs nothing, names no other file, swells nothing, and is a sentence where it is wrong."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import struct
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from families import FAMILIES, small_config

from conftest import ROOT
from renaissance.core.errors import UserError
from renaissance.models import backbones
from renaissance.models.backbones import tokenizer_data
from renaissance.models.backbones.configs import TIMM_ARGUMENTS, UNDECLARED
from renaissance.settings import bounds
from tiny_models import text_config, tokenizer

RAN: list[str] = []


class Runs:
    """Unpickled, it runs."""

    def __reduce__(self) -> tuple:
        return (RAN.append, ("ran",))


def folder_of(values: dict[str, Any] | str, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(values if isinstance(values, str) else json.dumps(values))
    return str(folder)


# Configurations


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"model_args": {"checkpoint_path": "code.bin"}},
            "model_args checkpoint_path, which this program hands to no model",
        ),
        ({"model_args": {"pretrained_cfg": {"file": "code.bin"}}}, "model_args pretrained_cfg"),
        ({"model_args": {"pretrained": True, "cache_dir": "/"}}, "model_args cache_dir, pretrained"),
        ({"model_args": {"norm_layer": "../code"}}, "is no value of a timm model"),
        ({"model_args": {"img_size": {"a": 1}}}, "is no value of a timm model"),
        ({"model_args": [1]}, "has to be an object"),
        ({"model_args": {"depth": 10**9}}, "depth=1000000000, which is no size"),
        ({"architecture": "hf-hub:someone/model"}, "no name of a timm model"),
        ({"architecture": "local-dir:/tmp"}, "no name of a timm model"),
        ({"architecture": ["resnet18"]}, "no name of a timm model"),
    ],
)
def test_what_timm_is_handed_is_on_a_list(changed: dict, sentence: str, tmp_path: Path) -> None:
    torch.save({"state_dict": Runs()}, tmp_path / "code.bin")
    values = {"architecture": "vit_tiny_patch16_224", "model_type": "timm_wrapper"} | changed
    for read in (
        lambda: backbones.read_config(folder_of(values, tmp_path)),
        lambda: backbones.config_from_dict(values),
    ):
        with pytest.raises(UserError, match=sentence):
            config = read()
            backbones.build_vision_tower(config, weights=None)
    assert not RAN


def test_no_argument_of_timm_that_names_a_place_is_on_the_list() -> None:
    assert not TIMM_ARGUMENTS & {*inspect.signature(timm.create_model).parameters}


FOREIGN = {
    "_name_or_path": "/etc",
    "name_or_path": "/etc",
    "transformers_weights": "../../x.safetensors",
    "attn_implementation": "someone/kernel",
    "_attn_implementation": "someone/kernel",
    "_attn_implementation_internal": "someone/kernel",
    "experts_implementation": "someone/kernel",
    "fusion_config": {"patch_embeddings": True},
    "torch_dtype": "save",
    "configuration_files": ["config.9.0.0.json"],
    "per_layer_config": [{}],
    "backbone": "resnet18",
    "use_timm_backbone": True,
    "backbone_kwargs": {"checkpoint_path": "x"},
    "num_labels": 10**9,
    "id2label": {"a": "b"},
}


@pytest.mark.parametrize("kind", ["bert", "vit", "clip_vision_model", "dpt", "t5"])
def test_a_configuration_has_the_fields_of_its_class_and_no_other(kind: str, tmp_path: Path) -> None:
    plain = small_config(kind).to_dict()
    expected = backbones.read_config(folder_of(plain, tmp_path)).to_dict()
    assert backbones.read_config(folder_of(plain | FOREIGN, tmp_path)).to_dict() == expected
    assert backbones.config_from_dict(plain | FOREIGN).to_dict() == expected


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_every_family_keeps_its_configuration(kind: str) -> None:
    config = small_config(kind)
    dropped = {"id2label", "label2id", "problem_type", "dtype", "transformers_version", "label_names", "num_classes"}
    kept = backbones.config_from_dict(json.loads(config.to_json_string(use_diff=False))).to_dict()
    lost = {
        key
        for key, value in config.to_dict().items()
        if key not in dropped and kept.get(key) != json.loads(json.dumps(value))
    }
    # What towers do not read: numbers of tokens for generation, stages of detectors.
    assert not lost - {
        "_name_or_path",
        "out_features",
        "out_indices",
        "head_config",
        "bos_token_id",
        "decoder_start_token_id",
    }


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"hidden_size": "a"}, "hidden_size"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": -8}, "hidden_size=-8, which is no size"),
        ({"hidden_size": 0}, "hidden_size=0, which is no size"),
        ({"hidden_size": 1.5}, "hidden_size"),
        ({"hidden_size": [16]}, "hidden_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000, which is no size"),
        ({"hidden_size": 10**12}, "hidden_size=1000000000000, which is no size"),
        ({"hidden_size": 10**9, "num_attention_heads": 1}, "cannot be built with these dimensions"),
        ({"vocab_size": 2**31 - 1, "hidden_size": 64}, "its weights take more than 275 GB"),
        ({"num_attention_heads": 3}, "heads"),
        ({"hidden_act": "nothing"}, "cannot be built with these dimensions"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "is quantised"),
        ({"model_type": None}, "names no model_type"),
        ({"model_type": ["bert"]}, "has to be text or null"),
        ({"model_type": "gpt2"}, "is causal"),
        ({"model_type": "\x1b[31mx"}, r"model type \\x1b\[31mx"),
    ],
)
def test_a_wrong_configuration_is_a_sentence(changed: dict, sentence: str, tmp_path: Path) -> None:
    values = {key: value for key, value in (small_config("bert").to_dict() | changed).items()}
    with pytest.raises(UserError, match=sentence), torch.device("meta"):
        backbones.build_text_tower(backbones.read_config(folder_of(values, tmp_path)), weights=None)
    with pytest.raises(UserError), torch.device("meta"):
        backbones.build_text_tower(backbones.config_from_dict(values), weights=None)


@pytest.mark.parametrize(
    "text", ["{", "[1]", "null", "", '{"model_type": "bert", "model_type": "vit"}', "{" * 10**5, '{"a": NaN}']
)
def test_a_damaged_configuration_is_a_sentence(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json of"):
        backbones.read_config(folder_of(text, tmp_path))


def test_a_million_layers_are_refused_before_they_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MOST_PARTS", 1000)
    config = small_config("bert")
    config.num_hidden_layers = 10**6
    with pytest.raises(UserError, match="more than 1,000 modules"), torch.device("meta"):
        backbones.build_text_tower(config, weights=None)


def test_what_a_model_reads_beyond_its_declared_fields_is_kept() -> None:
    """DeBERTa-v3 lives on such fields: dropped, it would be another model in silence."""
    unread = {"gradient_checkpointing", "return_class_token", "decoder_pad_token_id", "decoder_start_token_id"}
    for family in FAMILIES.values():
        model_class = getattr(transformers, family.model)
        modules = [sys.modules[each.__module__] for each in (model_class, model_class.config_class)]
        read = {
            name
            for each in modules
            for name in re.findall(r'(?:get|has)attr\((?:self\.)?config, "(\w+)"', inspect.getsource(each))
        }
        configs = [
            each
            for each in vars(modules[1]).values()
            if inspect.isclass(each) and issubclass(each, transformers.PreTrainedConfig)
        ]
        declared = {field.name for each in configs for field in dataclasses.fields(each)}.union(
            *(each.attribute_map for each in configs)
        )
        of_all = {name for name in read if hasattr(transformers.PreTrainedConfig, name) or name.startswith("summary_")}
        assert read - declared - of_all <= UNDECLARED | unread
    values = {"norm_rel_ebd": "layer_norm", "position_buckets": 256, "share_att_key": True, "conv_kernel_size": 3}
    config = backbones.config_from_dict({"model_type": "deberta-v2"} | values)
    assert {key: getattr(config, key) for key in values} == values


def test_sizes_that_a_configuration_leaves_out_are_said(tmp_path: Path) -> None:
    notes: list[str] = []
    backbones.read_config(folder_of({"model_type": "vit", "hidden_size": 64}, tmp_path), notes=notes)
    assert "num_attention_heads=12" in notes[0] and "image_size=224" in notes[0] and "hidden_size" not in notes[0]
    backbones.read_config(folder_of(small_config("vit").to_dict(), tmp_path), notes=notes)
    assert len(notes) == 1


def test_the_name_of_a_family_will_do_where_no_weights_are_wanted() -> None:
    assert backbones.read_config("vit", untrained=True).model_type == "vit"
    with pytest.raises(UserError, match="name of a family, which has no weights"):
        backbones.read_config("vit")
    with pytest.raises(UserError, match="brings no tokenizer: give tokenizer="):
        backbones.load_tokenizer("bert")
    assert backbones.read_image_processor("vit", backbones.read_config("vit", untrained=True)) is None


# Weights

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 154032\n"


def spoilt(kind: str, whole: bytes) -> bytes:
    length = struct.unpack("<Q", whole[:8])[0]
    return {
        "pointer": LFS,
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "claims more": struct.pack("<Q", 2**40) + whole[8:],
        "no header": struct.pack("<Q", length) + b"x" * (len(whole) - 8),
    }[kind]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    transformers.BertModel(text_config()).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["pointer", "cut", "empty", "claims more", "no header"])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_weights_that_are_none_are_found_before_they_are_read(kind: str, file: str, bert: Path, tmp_path: Path) -> None:
    whole = (bert / "model.safetensors").read_bytes()
    (tmp_path / file).write_bytes(spoilt(kind, whole))
    with pytest.raises(UserError, match="git-LFS pointer" if kind == "pointer" else "is cut short or damaged"):
        backbones.check_weights(str(tmp_path), "random_init_encoder")


def test_packed_weights_that_claim_more_than_they_hold_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", b"\0" * 10**6)
    with pytest.raises(UserError, match="1,000,000 bytes packed into"):
        backbones.check_weights(str(tmp_path), "random_init_encoder")


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        ({"weight_map": {"a": "../../x.safetensors"}}, "no file of weights beside it"),
        ({"weight_map": {"a": "/etc/passwd"}}, "no file of weights beside it"),
        ({"weight_map": {"a": "absent.safetensors"}}, "which is not there"),
        ({"weight_map": {"a": 1}}, "has to be text"),
        ({"weight_map": {}}, "empty weight_map"),
        ({}, "weight_map in .* has to be an object"),
        ([], "has to be an object"),
    ],
)
def test_an_index_names_parts_beside_it(index: Any, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=sentence):
        backbones.check_weights(str(tmp_path), "random_init_encoder")


def test_a_folder_without_weights_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give random_init_vision_encoder=True to start from random ones"):
        backbones.check_weights(folder_of(small_config("vit").to_dict(), tmp_path), "random_init_vision_encoder")


def test_what_lies_beside_the_weights_is_not_looked_at(bert: Path, tmp_path: Path) -> None:
    for file in bert.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/other"}')
    (tmp_path / "generation_config.json").write_text("{")
    tower = backbones.build_text_tower(backbones.read_config(str(tmp_path)), weights=str(tmp_path))
    expected = backbones.build_text_tower(backbones.read_config(str(bert)), weights=str(bert))
    for one, other in zip(tower.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_model_claims_no_more_than_its_weights_hold(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((bert / "model.safetensors").read_bytes())
    values = text_config(vocab_size=2**28, hidden_size=64).to_dict()
    config = backbones.read_config(folder_of(values, tmp_path))
    with pytest.raises(UserError, match="asks for more than its weights of .* bytes hold"):
        backbones.build_text_tower(config, weights=str(tmp_path))


# Tokenizers


@pytest.fixture
def words(tmp_path: Path) -> Path:
    tokenizer().save_pretrained(tmp_path)
    return tmp_path


def changed(folder: Path, file: str, **values: Any) -> str:
    path = folder / file
    said = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(said | values))
    return str(folder)


def refused_as_model_and_checkpoint(folder: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        backbones.load_tokenizer(folder)
    files = {path.name: path.read_text() for path in Path(folder).iterdir()}
    with pytest.raises(UserError, match=sentence):
        backbones.tokenizer_from_files(files)


@pytest.mark.parametrize("kind", ["bert", "roberta", "clip_text_model", "t5"])
def test_a_model_without_a_vocabulary_brings_no_tokenizer(kind: str, tmp_path: Path) -> None:
    folder = folder_of(small_config(kind).to_dict(), tmp_path)
    for text in (None, '{"do_lower_case": true}'):
        if text is not None:
            (tmp_path / "tokenizer_config.json").write_text(text)
        with pytest.raises(UserError, match="brings no tokenizer .*give tokenizer="):
            backbones.load_tokenizer(folder)


def test_a_vocabulary_that_cannot_say_unknown_is_refused(tmp_path: Path) -> None:
    folder_of(small_config("bert").to_dict(), tmp_path)
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(
        UserError, match="cannot cut a short sentence .*; give tokenizer=<Hub id or folder of a model with"
    ):
        backbones.load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("content", ["", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"])
def test_a_vocabulary_of_special_tokens_is_none(content: str, tmp_path: Path) -> None:
    folder_of(small_config("bert").to_dict(), tmp_path)
    (tmp_path / "vocab.txt").write_text(content)
    with pytest.raises(UserError, match="no pieces but special ones|cannot be read"):
        backbones.load_tokenizer(str(tmp_path))


def test_special_tokens_that_the_files_lack_are_said(tmp_path: Path) -> None:
    folder_of(small_config("bert").to_dict(), tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\ndog\n")
    assert backbones.load_tokenizer(str(tmp_path))[1] == [
        f"tokenizer of {tmp_path} had no mask_token: [MASK] was added, piece 6"
    ]


@pytest.mark.parametrize(
    "file", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
)
@pytest.mark.parametrize("text", ["{", "[1]", "3", "", LFS.decode(), "[" * 10**5])
def test_damaged_files_of_a_tokenizer_are_sentences(file: str, text: str, words: Path) -> None:
    (words / file).write_text(text)
    refused_as_model_and_checkpoint(str(words), f"{file.replace('.', r'[.]')} of")


@pytest.mark.parametrize(
    "values",
    [
        {"mask_token": 3},
        {"mask_token": ["a"]},
        {"mask_token": {"content": None}},
        {"additional_special_tokens": [[1]]},
        {"extra_special_tokens": ["a"] * 20_000},
        {"do_lower_case": "yes"},
        {"model_max_length": "long"},
        {"tokenizer_class": ["BertTokenizer"]},
        {"added_tokens_decoder": []},
        {"added_tokens_decoder": {"1": {"content": 1}}},
        {"extra_ids": 10**9},
        {"model_input_names": 4},
    ],
)
def test_settings_of_a_tokenizer_have_types(values: dict, words: Path) -> None:
    refused_as_model_and_checkpoint(changed(words, "tokenizer_config.json", **values), "tokenizer_config[.]json of")


def test_settings_of_a_tokenizer_name_no_files_and_no_code(words: Path) -> None:
    secret = words.parent / "secret.txt"
    secret.write_text("secret\n")
    foreign = {
        "vocab_file": str(secret),
        "tokenizer_file": str(secret),
        "name_or_path": "someone/else",
        "chat_template": "{{ 1 }}",
    }
    foreign |= {
        "auto_map": {"AutoTokenizer": ["code.Code", None]},
        "init_inputs": ["x"],
        "gguf_file": "x",
        "fix_mistral_regex": True,
    }
    expected = backbones.tokenizer_files(backbones.load_tokenizer(str(words))[0])
    found, _ = backbones.load_tokenizer(changed(words, "tokenizer_config.json", **foreign))
    assert backbones.tokenizer_files(found) == expected
    for kind in ("AutoTokenizer", "AutoModel", "pipeline", "os.system", "Trainer"):  # no classes of tokenizers
        with pytest.raises(UserError, match="code of its own"):
            backbones.load_tokenizer(changed(words, "tokenizer_config.json", tokenizer_class=kind))


REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 16}
GROWING = {
    "16^9": [REPLACE] * 9,
    "a long text": [REPLACE | {"content": "b" * 5000}],
    "an empty match": [REPLACE | {"pattern": {"Regex": "x*"}, "content": "yy"}] * 20,
    "a look behind": [REPLACE | {"pattern": {"Regex": "(?<=a)"}, "content": "a"}] * 30,
    "an empty pattern": [REPLACE | {"pattern": {"String": ""}, "content": "abcabcabc"}] * 5,
    "bytes of bytes": [{"type": "ByteLevel"}] * 12,
    "many steps": [{"type": "Lowercase"}] * 2000,
}


@pytest.mark.parametrize("name", GROWING)
@pytest.mark.parametrize("part", ["normalizer", "decoder"])
def test_a_text_that_would_grow_without_bound_is_refused(name: str, part: str, words: Path) -> None:
    steps = {"normalizers" if part == "normalizer" else "decoders": GROWING[name]}
    start = time.monotonic()
    refused_as_model_and_checkpoint(
        changed(words, "tokenizer.json", **{part: {"type": "Sequence"} | steps}), "times longer"
    )
    assert time.monotonic() - start < 5


def test_usual_steps_are_not_refused(words: Path) -> None:
    usual = [
        {"type": "Replace", "pattern": {"String": "``"}, "content": '"'},
        {"type": "Replace", "pattern": {"String": "…"}, "content": "..."},
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
        *({"type": kind} for kind in ("NFKD", "StripAccents", "Lowercase")),
        {"type": "Prepend", "prepend": " "},
    ]
    folder = changed(words, "tokenizer.json", normalizer={"type": "Sequence", "normalizers": usual})
    assert backbones.load_tokenizer(folder)[0].tokenize("A  RED square…")[:3] == ["a", "red", "square"]


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("vocabulary", "pieces up to 1,000,000,000"),
        ("below 0", "cannot be read .*integer `-1`"),
        ("text", "cannot be read .*invalid type: string"),
        ("post-processor", "numbers that are no pieces"),
    ],
)
def test_numbers_that_no_piece_has_are_refused(where: str, sentence: str, words: Path) -> None:
    said = json.loads((words / "tokenizer.json").read_text())
    if where == "post-processor":
        said["post_processor"]["special_tokens"]["[SEP]"]["ids"] = [10**8]
    else:
        said["model"]["vocab"]["new"] = {"vocabulary": 10**9, "below 0": -1, "text": "a"}[where]
    (words / "tokenizer.json").write_text(json.dumps(said))
    refused_as_model_and_checkpoint(str(words), sentence)


def test_added_tokens_are_numbered_anew_and_padding_of_a_file_is_not_applied(words: Path) -> None:
    said = json.loads((words / "tokenizer.json").read_text())
    said["added_tokens"][-1] |= {"id": 10**9, "content": "[NEW]"}
    said["padding"] = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": 10**9}
    said["padding"] |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "a"}
    (words / "tokenizer.json").write_text(json.dumps(said))
    for number in ("-1", str(10**9)):
        said = {"added_tokens_decoder": {number: {"content": "x"}}}
        found, _ = backbones.load_tokenizer(changed(words, "tokenizer_config.json", **said))
        assert backbones.vocabulary_rows(found) < 30 and len(found("a red").input_ids) < 6
    with pytest.raises(UserError, match="cannot be read"):
        backbones.load_tokenizer(changed(words, "tokenizer_config.json", added_tokens_decoder={"x": {"content": "a"}}))


def test_a_vocabulary_of_sentencepiece_works_or_names_the_packages() -> None:
    folder = ROOT.parent / "shared" / "faults" / "models" / "deb_spm"
    if not folder.is_dir():
        pytest.skip("no shared/faults here")
    try:
        found, _ = backbones.load_tokenizer(str(folder))
    except UserError as error:
        assert "pip install sentencepiece protobuf" in str(error)
    else:
        assert found.tokenize("a red dog") == ["▁a", "▁red", "▁dog"]
        again = backbones.tokenizer_from_files(backbones.tokenizer_files(found))
        assert again("a red xyz").input_ids == found("a red xyz").input_ids


def test_a_pipe_in_the_place_of_a_file_does_not_block(words: Path) -> None:
    (words / "tokenizer_config.json").unlink()
    os.mkfifo(words / "tokenizer_config.json")
    assert backbones.load_tokenizer(str(words))[0].tokenize("a red") == ["a", "red"]


def test_a_flag_whose_name_ends_as_a_token_does_is_no_token():
    """As Llama, Qwen and OPT have them."""
    said = {"add_bos_token": False, "add_eos_token": True, "bos_token": "<s>", "tokenizer_class": "GPT2Tokenizer"}
    kept = tokenizer_data.clean({"tokenizer_config.json": json.dumps(said).encode()}, "a model")
    assert json.loads(kept["tokenizer_config.json"]) == said
    with pytest.raises(UserError, match="add_bos_token in tokenizer_config.json of a model is 'no'"):
        tokenizer_data.clean({"tokenizer_config.json": b'{"add_bos_token": "no"}'}, "a model")
