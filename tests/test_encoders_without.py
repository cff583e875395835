"""Encoders that lack something: weights, a tokenizer, image preparation, sizes; and towers of random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import small_run
from models.families import small_config
from renaissance.core.errors import UserError
from renaissance.inference.loaded import Loaded
from renaissance.runs import checkpoint
from renaissance.runs.stored import TrainingState
from renaissance.training import summary
from renaissance.training.assembly import build, build_on_meta
from renaissance.training.checkpointing import checkpoint_content
from renaissance.training.loading import RunData
from renaissance.training.optim import parameter_groups, random_towers
from renaissance.training.resolution import Resolved, resolve
from small_run import resolver, values_of
from tiny_models import image_config, pictures, text_config, tokenizer

SIZES = {"image_encoder_hidden_size": 16, "image_encoder_num_heads": 2, "image_encoder_num_layers": 1}

FUSION = values_of(*small_run.FUSION)


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    transformers.BertModel(text_config()).save_pretrained(tmp_path / "bert")
    tokenizer().save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    transformers.ViTModel(image_config()).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def resolved(image: Path | str, text: Path | str, **given: Any) -> Resolved:
    return resolve(resolver(image_encoder=str(image), text_encoder=str(text), max_text_len=10, **FUSION, **given))


def test_no_tokenizer_is_no_vocabulary_of_five_pieces(bert: Path, vit: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    tokenizer().save_pretrained(other)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (bert / file).unlink()
    with pytest.raises(UserError, match="brings no tokenizer .*: give tokenizer="):
        resolved(vit, bert)
    found = resolved(vit, bert, tokenizer=str(other))
    assert any("not compared with that of" in note for note in found.notes)
    assert resolved(vit, bert, tokenizer=str(other), random_init_text_encoder=True).settings.model.vocab_size == 20


@pytest.mark.parametrize("tower", ["image", "text"])
def test_missing_weights_and_pointers_are_refused_before_anything_is_read(tower: str, bert: Path, vit: Path) -> None:
    weights = (vit if tower == "image" else bert) / "model.safetensors"
    key = {"image": "random_init_vision_encoder", "text": "random_init_text_encoder"}[tower]
    weights.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=r"model.safetensors of .* is a git-LFS pointer"):
        resolved(vit, bert)
    weights.unlink()
    with pytest.raises(UserError, match=f"holds no weights .*: give {key}=True"):
        resolved(vit, bert)
    lines = "\n".join(summary.model_lines(resolved(vit, bert, **{key: True})))
    assert (
        lines.count("random weights") == 1 and f"{tower}_encoder: " in lines.split("random weights")[0].splitlines()[-1]
    )


def test_what_is_assumed_is_said(bert: Path, vit: Path) -> None:
    notes = resolved(vit, bert).notes
    assert [note.split(" does ")[1] for note in notes if " does " in note] == [
        "not say how it wants its images: mean and deviation 0.5 are taken"
    ]
    values = json.loads((vit / "config.json").read_text())
    del values["num_attention_heads"]
    (vit / "config.json").write_text(json.dumps(values | {"hidden_size": 24}))
    notes = resolved(vit, bert, random_init_vision_encoder=True).notes
    assert [note.split(" does ")[1] for note in notes if " does " in note] == [
        "not say num_attention_heads=12: the defaults of transformers are taken"
    ]


def test_more_pieces_than_word_embeddings_are_said(bert: Path, vit: Path) -> None:
    grown = tokenizer.__wrapped__()
    grown.add_tokens(["unheard", "of"])
    grown.save_pretrained(bert)
    rows = text_config().vocab_size
    wanted = f"has {rows} word embeddings and its tokenizer {len(grown)} pieces"
    assert any(wanted in note for note in resolved(vit, bert).notes), resolved(vit, bert).notes


def test_sizes_by_hand_need_the_name_of_a_family_alone(bert: Path) -> None:
    found = resolved("vit", bert, image_encoder_manual_configuration=True, image_size=32, patch_size=8, **SIZES)
    assert build_on_meta(found).model.image_tower.config.hidden_size == 16
    with pytest.raises(UserError, match="vit is the name of a family, which has no weights"):
        resolved("vit", bert)
    one = {"encoder": "bert", "encoder_manual_configuration": True, "image_size": 32, "patch_size": 8}
    sizes = {"hidden_size": 16, "num_heads": 2, "num_layers": 1}
    assert build_on_meta(resolve(resolver(tokenizer=str(bert), **one, **sizes))).model
    with pytest.raises(UserError, match="bert is the name of a family .*: give tokenizer=<Hub id or folder>"):
        resolve(resolver(**one, **sizes))


def test_a_learning_rate_for_random_towers(bert: Path, vit: Path, tmp_path: Path) -> None:
    found = resolved(vit, bert, random_init_vision_encoder=True, lr_mult_random=4)
    built = build_on_meta(found)
    groups = parameter_groups(built.model, built.heads, found.settings.optim, random_towers(found.settings.model))
    image = {id(parameter) for parameter in built.model.image_tower.parameters()}
    text = {id(parameter) for parameter in built.model.text_tower.parameters()}
    for group in groups:
        members = {id(parameter) for parameter in group["params"]}
        assert (group["multiplier"] == 4) == (members <= image) and not (members & text and group["multiplier"] != 1)
    table = "\n".join(summary._optimization_lines(built, found.settings, RunData({}, {}, 10), 1, 0))
    row = next(line.split() for line in table.splitlines() if line.startswith("random tower, matrices"))
    assert float(row[3]) == pytest.approx(4 * found.settings.optim.learning_rate)
    path, real = tmp_path / "x.ckpt", build(found)
    checkpoint.save(path, checkpoint_content(real, found)(TrainingState()))
    assert Loaded(path).settings.optim.lr_mult_random == 4
    for given, sentence in (({}, "no tower starts from random weights"), ({"load_path": "x"}, "load_path brings")):
        with pytest.raises(UserError, match=sentence):
            resolver(lr_mult_random=4, **given)


@pytest.mark.parametrize("flipped", [True, False])
def test_reversed_channels_are_in_the_checkpoint(flipped: bool, bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mobilevit"
    transformers.MobileViTModel(small_config("mobilevit")).save_pretrained(folder)
    said = {"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": flipped, "crop_size": 32}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    found = resolved(folder, bert)
    images = pictures()
    expected = (images.pixels.flip(1) if flipped else images.pixels) / 255
    torch.testing.assert_close(build(found).model.normalize(images), expected)
    path = tmp_path / "x.ckpt"
    checkpoint.save(path, checkpoint_content(build(found), found)(TrainingState()))
    again = resolve(resolver(load_path=str(path)), checkpoint.read(path))
    torch.testing.assert_close(build(again, pretrained=False).model.normalize(images), expected)
    assert ("channels" in again.image) is flipped
