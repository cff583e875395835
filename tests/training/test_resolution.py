"""Who answers for what nobody gave: given > checkpoint > model > fallback; on small models of the tests' own cache."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import small_run
from renaissance.cli.main import main
from renaissance.core.errors import UserError
from renaissance.demo.raw import write_tokenizer
from renaissance.runs import checkpoint
from renaissance.runs.stored import TrainingState
from renaissance.settings.declared import defaults
from renaissance.settings.resolver import ConfigResolver
from renaissance.training.assembly import build, build_on_meta
from renaissance.training.checkpointing import checkpoint_content
from renaissance.training.resolution import Resolved, resolve
from small_run import resolver, values_of

DINO, VIT = "facebook/dino-vits16", "google/vit-base-patch16-224"
DEIT, ELECTRA = "facebook/deit-tiny-patch16-224", "google/electra-small-discriminator"
BERT = "google-bert/bert-base-uncased"
IMAGENET, HALF = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), ([0.5] * 3, [0.5] * 3)
FUSION = values_of(*small_run.FUSION)

pytestmark = pytest.mark.usefixtures("hub_cache")


def answers(resolved: Resolved, *keys: str) -> list[tuple[Any, str]]:
    return [(resolved.settings.flat[key], resolved.settings.sources[key]) for key in keys]


def saved(path: Path, **given: Any) -> tuple[Path, Resolved]:
    resolved = resolve(resolver(**given))
    built = build(resolved)
    checkpoint.save(path, checkpoint_content(built, resolved)(TrainingState(step=3)))
    return path, resolved


def test_nothing_given_is_deit_tiny_and_electra_small():
    resolved = resolve(resolver())
    assert answers(resolved, "model_type", "image_encoder", "text_encoder", "tokenizer") == [
        ("two-tower", "encoder settings"),
        (DEIT, "fallback"),
        (ELECTRA, "fallback"),
        (ELECTRA, f"model {ELECTRA}"),
    ]
    assert answers(resolved, "image_size", "patch_size", "text_encoder_hidden_size", "max_text_len", "vocab_size") == [
        (224, f"model {DEIT}"),
        (16, f"model {DEIT}"),
        (32, f"model {ELECTRA}"),
        (50, "fallback"),
        (30522, f"tokenizer {ELECTRA}"),
    ]
    assert (resolved.image["mean"], resolved.image["std"]) == IMAGENET


ONE_TOWERS = [
    # encoder, its tokenizer and who named it, mean and deviation of pixels, who answers for the patches
    (DINO, BERT, "fallback", IMAGENET, f"model {DINO}"),
    (VIT, BERT, "fallback", HALF, f"model {VIT}"),
    (BERT, BERT, f"model {BERT}", HALF, "fallback"),
]


@pytest.mark.parametrize(("encoder", "tokenizer", "source", "image", "patches"), ONE_TOWERS)
def test_one_tower_answers(encoder, tokenizer, source, image, patches):
    resolved = resolve(resolver(encoder=encoder))
    assert answers(resolved, "model_type", "tokenizer", "pooler_type") == [
        ("one-tower", "encoder settings"),
        (tokenizer, source),
        ("single", "fallback"),
    ]
    assert (resolved.image["mean"], resolved.image["std"]) == image
    assert answers(resolved, "patch_size") == [(16, patches)] and resolved.settings.flat["image_size"] == 224


def test_given_sizes_count_where_the_weights_can_be_adapted():
    resolved = resolve(resolver(image_size=64, max_text_len=20, text_encoder_drop_rate=0.3, **FUSION))
    assert answers(resolved, "image_size", "original_image_size", "max_text_len", "text_encoder_drop_rate") == [
        (64, "given"),
        (224, f"model {DEIT}"),
        (20, "given"),
        (0.3, "given"),
    ]
    model = build(resolved).model
    assert model.image_tower.config.image_size == 64
    rates = {module.p for module in model.text_tower.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.3}


def test_a_manual_configuration_counts_before_the_model():
    resolved = resolve(
        resolver(encoder=DINO, encoder_manual_configuration=True, hidden_size=24, num_heads=2, patch_size=8)
    )
    assert answers(resolved, "hidden_size", "num_heads", "num_layers", "mlp_ratio", "patch_size", "image_size") == [
        (24, "given"),
        (2, "given"),
        (2, f"model {DINO}"),
        (2.0, f"model {DINO}"),  # the ratio of the small checkpoint is kept, not its width
        (8, "given"),
        (224, f"model {DINO}"),
    ]
    assert build(resolved).model.image_embeddings is not None


def test_a_tokenizer_of_its_own_is_free_where_the_text_encoder_is_random(tmp_path):
    write_tokenizer(tmp_path / "words")
    given = {"tokenizer": str(tmp_path / "words"), **FUSION}
    with pytest.raises(UserError, match="has another vocabulary than"):
        resolve(resolver(**given))
    resolved = resolve(resolver(**given, random_init_text_encoder=True))
    size = resolved.settings.model.vocab_size
    assert size == len(resolved.tokenizer) < 1000
    assert build(resolved).heads["mlm"].head.decoder.out_features == size
    vision = resolve(resolver(encoder=DINO, tokenizer=given["tokenizer"]))  # a vision encoder brings no vocabulary
    assert vision.settings.model.vocab_size == size


def test_a_short_model_shortens_the_texts(tmp_path, hub_cache):
    from transformers import AutoTokenizer, BertConfig

    AutoTokenizer.from_pretrained(BERT).save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertConfig(**sizes, max_position_embeddings=32).save_pretrained(tmp_path)
    random = {"text_encoder": str(tmp_path), "random_init_text_encoder": True}
    assert answers(resolve(resolver(**random)), "max_text_len") == [(32, f"model {tmp_path}")]
    with pytest.raises(
        UserError, match=r"max_text_len=33 is more than text_encoder \(bert\) has positions for: give 32"
    ):
        build_on_meta(resolve(resolver(**random, max_text_len=33)))


def test_a_checkpoint_counts_before_the_model_and_asks_nobody(tmp_path, monkeypatch):
    path, before = saved(tmp_path / "a.ckpt", image_size=64, max_text_len=20, fusion="separate", mlm_prob=0.3, **FUSION)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "nothing"))
    resolved = resolve(resolver(load_path=str(path), max_text_len=16), checkpoint.read(path))
    keys = ("image_size", "fusion", "cross_layer_hidden_size", "text_encoder", "tokenizer", "vocab_size")
    assert answers(resolved, *keys) == [(before.settings.flat[key], "checkpoint") for key in keys]
    assert answers(resolved, "max_text_len", "mlm_prob") == [
        (16, "given"),
        (0.15, "default"),
    ]  # a new run, another recipe
    assert resolved.image == before.image
    assert resolved.tokenizer("a red square")["input_ids"] == before.tokenizer("a red square")["input_ids"]
    built = build(resolved)
    report = checkpoint.load_state_dicts(built.model, built.heads, resolved.stored, str(path))
    assert not report.missing and not report.unexpected and not report.resized


CONTRADICTIONS = [
    ({"fusion": "merged"}, "fusion=merged contradicts the checkpoint, which has fusion=shared"),
    ({"cross_layer_hidden_size": 64}, "cross_layer_hidden_size=64 contradicts the checkpoint"),
    ({"text_encoder": BERT}, f"text_encoder={BERT} contradicts the checkpoint, which has text_encoder={ELECTRA}"),
    ({"tokenizer": BERT}, "tokenizer=google-bert/bert-base-uncased contradicts the checkpoint"),
    ({"image_encoder_embedding_size": 8}, "image_encoder_embedding_size=8: the checkpoint has none; leave it out."),
    (
        {"random_init_text_encoder": True},
        "contradicts the checkpoint, which has random_init_text_encoder=False; leave ",
    ),
    (
        {"image_encoder_manual_configuration": True},
        "image_encoder_manual_configuration=True contradicts the checkpoint",
    ),
    (
        {"initializer_range": 0.1},
        "=0.1 would draw nothing: the checkpoint of load_path brings the weights of the model "
        "and of the heads for itm, mlm; leave it out.",
    ),
    ({"encoder": DINO}, "encoder means something to one-tower models only"),
    ({"image_size": 40}, "image_size=40 is not a multiple of patch_size=16; give 32 or 48."),
]


def test_a_contradiction_of_the_checkpoint_is_refused(tmp_path):
    path, _ = saved(tmp_path / "a.ckpt", **FUSION)
    for given, sentence in CONTRADICTIONS:
        with pytest.raises(UserError) as caught:
            resolve(resolver(load_path=str(path), **given), checkpoint.read(path))
        assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_command_may_repeat_how_the_checkpoints_model_was_made_and_draws_new_heads_as_it_says(tmp_path):
    made = {"random_init_text_encoder": True, "image_encoder_manual_configuration": True, "image_encoder_num_layers": 1}
    path, _ = saved(tmp_path / "a.ckpt", loss_names={"mlm": 1}, initializer_range=0.1, **made, **FUSION)
    stored = checkpoint.read(path)
    resolve(resolver(load_path=str(path), loss_names={"mlm": 1}, initializer_range=0.1, **made), stored)
    # The head of ITM is new: it is drawn with the deviation of this command.
    built = build(resolve(resolver(load_path=str(path), initializer_range=1e-6), stored))
    checkpoint.load_state_dicts(built.model, built.heads, stored, str(path))
    assert 0 < built.heads["itm"].head.classifier.weight.abs().max() < 1e-4
    assert built.heads["mlm"].head.decoder.weight.std().item() == pytest.approx(0.1, rel=0.1)


def test_the_first_weights_of_a_head_depend_on_its_own_task_alone(tmp_path):
    itm, both, other = (
        build(resolve(resolver(loss_names=losses, seed=seed, **FUSION))).heads["itm"].head.classifier.weight
        for losses, seed in (({"itm": 1}, 1), ({"mlm": 1, "itm": 1}, 1), ({"itm": 1}, 2))
    )
    assert torch.equal(itm, both) and not torch.equal(itm, other)


def test_longer_texts_than_a_one_tower_checkpoint_was_trained_with_are_refused(tmp_path):
    path, _ = saved(tmp_path / "a.ckpt", encoder=DINO, image_size=32, max_text_len=12)
    with pytest.raises(UserError, match="max_text_len=13 is more than the checkpoint's 12 positions"):
        resolve(resolver(load_path=str(path), max_text_len=13), checkpoint.read(path))


def test_a_resumed_run_takes_every_setting_and_lets_only_the_rest_of_the_run_be_changed(tmp_path):
    path, before = saved(
        tmp_path / "a.ckpt", image_size=32, learning_rate=3e-3, batch_size=8, mlm_prob=0.4, negative_group=4, **FUSION
    )
    words = {"loss_names": {"mlm": 0, "itm": 0}, "max_steps": None, "resume_from": str(path)}

    def again(**given: Any) -> Resolved:
        values = defaults() | words | given
        return resolve(ConfigResolver(values, dict.fromkeys([*given, "resume_from"], "given")), checkpoint.read(path))

    resolved = again(max_steps=9, num_workers=0)
    free = {"resume_from", "max_steps", "num_workers"}
    assert {key: value for key, value in resolved.settings.flat.items() if key not in free} == {
        key: value for key, value in before.settings.flat.items() if key not in free
    }
    assert resolved.settings.optim.max_steps == 9 and resolved.settings.sources["learning_rate"] == "checkpoint"
    with pytest.raises(UserError, match="learning_rate=0.1 contradicts the checkpoint, which has learning_rate=0.003"):
        again(learning_rate=0.1)
    with pytest.raises(UserError, match="gradient_clip_val=1: the checkpoint has none; leave it out"):
        again(gradient_clip_val=1)
    with pytest.raises(UserError, match="initializer_range=0.1: the checkpoint has none; leave it out"):
        again(initializer_range=0.1)
    with pytest.raises(UserError, match="or per_gpu_batchsize=4, the largest up to 8 that fits"):
        again(num_gpus=2)
    assert again(num_gpus=2, per_gpu_batchsize=4).settings.machine.processes == 2  # as the sentence says


def test_check_shows_where_every_value_came_from(tmp_path, monkeypatch, capsys):
    path, _ = saved(tmp_path / "a.ckpt", image_size=32, **FUSION)
    monkeypatch.chdir(tmp_path)
    assert main(["check", "with", "task_itm", "max_steps=5", f"load_path={path.name}"]) == 0
    shown = dict(
        re.findall(
            r"^(\w+) +.*?  +((?:given|preset|checkpoint|model|fallback|default|per_gpu).*)$",
            capsys.readouterr().out,
            re.M,
        )
    )
    assert {key: shown[key] for key in ("max_steps", "loss_names", "image_size", "num_gpus", "seed")} == {
        "max_steps": "given",
        "loss_names": "preset task_itm",
        "image_size": "checkpoint",
        "num_gpus": "fallback",
        "seed": "default",
    }
    assert shown.keys() >= defaults().keys()


def test_a_local_folder_works_like_an_id(tmp_path, hub_cache):
    from huggingface_hub import snapshot_download

    shutil.copytree(snapshot_download(DINO, local_files_only=True), tmp_path / "dino")
    by_id, by_folder = (
        build(resolve(resolver(encoder=name))).model.state_dict() for name in (DINO, str(tmp_path / "dino"))
    )
    assert by_id.keys() == by_folder.keys()
    assert all(torch.equal(by_id[name], by_folder[name]) for name in by_id)


def test_a_checkpoint_never_says_where_is_written_nor_what_may_be_fetched_or_run(tmp_path):
    """It answers for the model and, for a run that goes on, for the recipe."""
    path, _ = saved(
        tmp_path / "a.ckpt", image_size=32, log_dir=str(tmp_path / "elsewhere"), exp_name="theirs", **FUSION
    )
    foreign = {
        "trust_remote_code": True,
        "allow_download": False,
        "fast_dev_run": 3,
        "test_only": True,
        "load_path": "b",
    }
    content = checkpoint.read_archive(path)
    torch.save(content | {"settings": content["settings"] | foreign}, path)
    stored = checkpoint.read(path)
    keys = ("log_dir", "exp_name", *foreign)

    def resumed(path: Path) -> list[Any]:
        values = defaults() | {"resume_from": str(path)}
        flat = resolve(ConfigResolver(values, {"resume_from": "given"}), stored).settings.flat
        return [flat[key] for key in keys]

    own = [False, True, 0, False, None]
    assert resumed(path) == ["result", "renaissance", *own]
    for start in (resolver(load_path=str(path)), resolver(load_path=str(path), test_only=True)):
        flat = resolve(start, stored).settings.flat
        assert (flat["log_dir"], flat["exp_name"], flat["trust_remote_code"]) == ("result", "renaissance", False)


def test_settings_of_another_version_are_named(tmp_path):
    path, _ = saved(tmp_path / "a.ckpt", image_size=32, **FUSION)
    stored = checkpoint.read(path)
    later = stored._replace(settings=stored.settings | {"later_size": 5})
    notes = resolve(resolver(load_path=str(path)), later).notes
    assert "the checkpoint has settings unknown to this version: later_size" in notes
