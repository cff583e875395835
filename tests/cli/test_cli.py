"""The command line: what the words mean, and every refusal that needs no data.

A refusal is one sentence on stderr (or a list of several), status 1, nothing on stdout and nothing written.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import ROOT
from renaissance import config
from renaissance.cli.main import FIRST_SAYS, QUERIES, SUBCOMMANDS, main
from renaissance.core.checks import no_losses
from renaissance.core.errors import Stopped
from renaissance.runs.report import RunFolder
from renaissance.settings.declared import SETTINGS, declared
from renaissance.settings.presets import presets
from renaissance.settings.words import literal, parse_words

PRESETS = presets()
RUN = ("task_mlm_itm", "max_steps=10")
ONE = (*RUN, "encoder=facebook/dino-vits16")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(work: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`refused("check", "with", ...)` is the sentence of a command that must be refused, and leave nothing behind."""

    def run(*words: str) -> str:
        before = sorted(work.rglob("*"))
        capsys.readouterr()
        assert main(words) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1, err
        assert sorted(work.rglob("*")) == before
        return err.removeprefix("error: ").strip()

    return run


# Words


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("1e-4", 1e-4), ("True", True), ("None", None), ("[1, 2]", [1, 2]),
        ('["coco","vg"]', ["coco", "vg"]),
        ("coco", "coco"), ("'3'", "3"), ("facebook/dino-vits16", "facebook/dino-vits16"), ("...", "..."),
        ("0123", "0123"),
        ("__import__('os')", "__import__('os')"), ("(" * 300, "(" * 300), ("", ""),
    ],
)  # fmt: skip
def test_literal(text: str, value: Any):
    assert literal(text) == value and type(literal(text)) is type(value)


def test_later_words_count_before_earlier_ones_and_values_before_presets():
    words = parse_words(
        ["seed=3", "task_mlm_itm", "deit_tiny", "task_itm", "loss_names.itm=2", "exp_name=a=b"], SETTINGS, PRESETS
    )
    assert words.values == {
        "exp_name": "a=b",
        "loss_names": no_losses() | {"itm": 2},
        "image_encoder": "facebook/deit-tiny-patch16-224",
        "seed": 3,
    }
    assert words.sources == {
        "exp_name": "given",
        "loss_names": "given",
        "image_encoder": "preset deit_tiny",
        "seed": "given",
    }


def test_a_config_file_is_read_as_plain_values(work: Path):
    Path("mine.json").write_text('{"seed": 4, "loss_names.mlm": 2, "data_root": "copy/arrow"}', encoding="utf-8")
    Path("mine.yaml").write_text("datasets: [mine]\nseed: 5\n", encoding="utf-8")
    words = parse_words(["task_itm", "mine.json", "mine.yaml", "learning_rate=1"], SETTINGS, PRESETS)
    assert (
        words.values["loss_names"] == no_losses() | {"mlm": 2, "itm": 1} and words.values["data_root"] == "copy/arrow"
    )
    assert (words.values["seed"], words.sources["seed"]) == (5, "file mine.yaml")
    assert words.sources["data_root"] == "file mine.json"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1E5", 1e5), ("-.5", -0.5), ("3", 3), ("+3", 3), ("0", 0), ("~", None), ("null", None), ("", None),
        ("true", True), ("False", False), ("[coco, vg]", ["coco", "vg"]), ("'1e-4'", "1e-4"), ('"3"', "3"),
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("010", "010"), ("1:30", "1:30"), ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"), ("0x10", "0x10"), (".nan", ".nan"), ("~/x", "~/x"), ("1.2.3", "1.2.3"), ("a # b", "a"),
    ],
)  # fmt: skip
def test_words_of_yaml_are_what_yaml_1_2_takes_them_for(text: str, value: Any, work: Path):
    Path("a.yaml").write_bytes(b"\xef\xbb\xbf" + f"seed: {text}\r\n".encode())  # as an editor of Windows leaves it
    found = parse_words(["a.yaml"], SETTINGS, PRESETS).values["seed"]
    assert found == value and type(found) is type(value)


def test_a_config_path_may_hold_an_equals_sign(work: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(work))
    Path("lr=1").mkdir()
    for path in ("a=b.yaml", "lr=1/c.json", "seed=3.yaml"):
        Path(path).write_text('{"seed": 4}', encoding="utf-8")
        assert parse_words([path], SETTINGS, PRESETS) == ({"seed": 4}, {"seed": f"file {path}"}, [])
        assert parse_words([f"~/{path}"], SETTINGS, PRESETS).values == {"seed": 4}
    assert parse_words(["log_dir=c.json"], SETTINGS, PRESETS).values == {"log_dir": "c.json"}  # there is no such file


def test_a_file_named_like_a_preset_is_not_read(work: Path, capsys):
    Path("task_mlm").write_text("no settings", encoding="utf-8")
    assert main(["print_config", "with", "task_mlm"]) == 0
    assert "exp_name = 'mlm' " in capsys.readouterr().out


HOSTILE = {
    "a.json": '{"py/object": "os.system"}',
    "b.json": '{"seed": {"p\\u0079/reduce": [{"py/function": "os.system"}, {"py/tuple": ["touch x"]}]}}',
    "c.json": '{"datasets": ["coco", {"py/object": "os.system"}]}',
    "d.yaml": "seed: !!python/object/apply:os.system ['touch x']",
    "e.pickle": "cos\nsystem\n(S'touch x'\ntR.",
    "f.pkl": "",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_config_file_runs_no_code(name: str, refused, monkeypatch):
    Path(name).write_text(HOSTILE[name], encoding="utf-8")
    monkeypatch.setattr(os, "system", lambda command: pytest.fail(f"ran {command}"))
    sentence = refused("with", *RUN, name)
    expected = {
        "a": "file a.json: there is no setting 'py/object'",
        "b": "seed has no entries of its own",
        "c": "give a list of data set",
    }
    expected |= {"d": "cannot be read", "e": "a config file ends in .json", "f": "a config file ends in .json"}
    assert expected[name[0]] in sentence


WORDS = [
    (("with", "task_mlm", "sede=3"), "There is no setting 'sede' (nearest: seed"),
    (("with", "task_mlm", "text_encoder_hiden_size=3"), "(nearest: text_encoder_hidden_size"),
    (("with", "task_mlmm"), "There is no preset 'task_mlmm' (nearest: task_mlm"),
    (("with", "task_mlmm"), "lists them all; of a plugin? add plugins="),
    (("with", "task_mlm", "toy_weight=3"), "lists them all; of a plugin? add plugins="),
    (("compare", "with", "run=a"), "There is no setting 'run' (nearest: runs); the settings are runs, tags, output."),
    (("compare", "with", "task_mlm"), "There is no preset 'task_mlm'; this command has none: write key=value."),
    (("with", "task_mlm=1"), "There is no setting 'task_mlm'"),
    (("with", "loss_names.vqa2=1"), "loss_names.vqa2 does not exist: loss_names has the entries mlm, itm, itc, vqa, "),
    (("with", "seed.x=1"), "seed.x does not exist: seed has the entries none."),
    (("with", "loss_names={'py/object': 'os.system'}"), "loss_names.py/object does not exist"),
    (("with", "loss_names={'p\\x79/object': 'os.system'}"), "loss_names.py/object does not exist"),
    (("with", "loss_names={1: 2}"), "loss_names.1 does not exist"),
    (("with", "nowhere.json"), "The config file nowhere.json does not exist."),
    (("wiht", "task_mlm"), "There is no command 'wiht' (nearest: with)"),
    (("task_mlm",), "There is no command 'task_mlm'"),
    (("check", "task_mlm"), "write `python run.py check with key=value ...`"),
    (("seed=3",), "write `python run.py with seed=3 ...` for a run"),
    (("with", "seed==3"), "'seed==3' is no setting: write key=value, with one ="),
    (("with", "=3"), "'=3' is no setting"),
    (("with", "seed=", "3"), "if it is the value of seed=, write them without a space"),
    (("with", "seed"), "write seed=<value>"),
    (("with", "--seed=3"), "write seed=3"),
    (("with", "--batch-size"), "write batch_size=<value>"),
    (("with", "seed: 3"), "write seed=3"),
    (("with", "\u2013\u2013seed=3"), "write seed=3"),
    (("with", "learning_rate=1e\u20134"), "spaces; type learning_rate=1e-4"),
    (("with", "exp_name=\u201crun\u201d"), 'spaces; type exp_name="run"'),
    (("with", "datasets=[\u2018coco\u2019]"), "spaces; type datasets=['coco']"),
    (("with", "loss_names=3", "loss_names.mlm=1"), "contradict each other"),
    (("with", "seed={'a': 1}"), "seed has no entries of its own"),
    (("with", "a" * 300), "There is no preset"),
    (("demo", "with", "root="), "root=None is not allowed: give a folder"),
    (("demo", "with", "root=True"), "root=True is not allowed"),
    (("demo", "with", "seed=1e30"), "seed=1e+30 is not allowed"),
    (("demo", "with", "steps=9"), "steps=9 is not allowed: give a whole number of at least 10"),
    (("demo", "with", "demo_tasks=[[1]]"), "demo_tasks=[[1]] is not allowed"),
    (("demo", "with", "sede=1"), "There is no setting 'sede' (nearest: seed)"),
    (("demo", "with", "seed=a"), "seed='a' is not allowed"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "sentence"), WORDS, ids=lambda case: " ".join(case)[:40])
def test_words_that_mean_nothing(words, sentence, refused):
    assert sentence in refused(*words)


NO_CONFIG = [
    ("a.json", b"{", "cannot be read as JSON"),
    ("a.json", b"[1]", "does not hold settings by name"),
    ("a.json", b"\xff", "cannot be read as JSON ("),
    ("a.json", b'{"sede": 1}', "no setting 'sede'"),
    ("a.json", b'{"seed": 1, // c\n}', "cannot be read as JSON"),
    ("a.json", b'{"seed": NaN}', "NaN is no number"),
    ("a.json", b'{"seed": 1, "seed": 2}', "'seed' stands there twice"),
    ("a.json", b'{"seed": ' + b"[" * 100_000, "nested too deeply"),
    ("a.json", b'{"loss_names": {"mlm": {"x": 1}}}', "loss_names.mlm has no entries of its own"),
    ("a.json", b'{"loss_names": {"vqa2": 1}}', "loss_names.vqa2 does not exist"),
    ("a.yaml", b"", "is empty"),
    ("a.yaml", b"# seed: 1\n", "is empty"),
    ("a.yaml", b"seed: 1\nseed: 2\n", "line 2: the key seed stands there twice"),
    ("a.yaml", b"loss_names: {mlm: 1, mlm: 2}", "the key mlm stands there twice"),
    ("a.yaml", b"loss_names:\n\tmlm: 1\n", "line 2: while scanning"),
    ("a.yaml", b"name: caf\xe9\n", "cannot be read as YAML ('utf-8' codec"),
    ("a.yaml", "seed: 3\n".encode("utf-16"), "cannot be read as YAML ('utf-8' codec"),
    ("a.yaml", b"a: &a [x]\nb: [*a, *a]\n", "line 2: *a is an alias"),
    ("a.yaml", b"seed: !!timestamp 2024-99-99", "is a tag; leave it out"),
    ("a.yaml", b"seed: " + b"[" * 100_000, "nested too deeply"),
    ("a.yaml", b"seed: 1\n---\nseed: 2\n", "expected a single document"),
    ("a.yaml", b"seed: 1\0", "unacceptable character"),
    ("a.yaml", b"seed: " + b"9" * 5000, "4300 digits"),
    ("a.yaml", b"seed: 1 #" + b"x" * (256 << 10), "at most 262,144 are read"),
    ("a.yaml", b"? [a]\n: 2\n", "a key has to be a name"),
    ("a.yaml", b"1: 2\n", "no setting '1'"),
    ("a.yaml", b"data_root: {a: b}\n", "data_root has no entries of its own"),
    ("a.txt", b"seed: 1\n", "the name of a config file ends in .json, .yaml, .yml"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "sentence"), NO_CONFIG, ids=lambda case: str(case)[:30])
def test_a_config_file_that_is_none(name: str, content: bytes, sentence: str, refused):
    Path(name).write_bytes(content)
    assert sentence in refused("print_config", "with", name)


def test_a_config_file_that_is_no_file_is_refused_at_once(refused):
    Path("folder.yaml").mkdir()
    os.mkfifo("pipe.json")
    assert "is a folder" in refused("print_config", "with", "folder.yaml")
    assert "is a pipe" in refused("print_config", "with", "pipe.json")


def test_a_name_of_digits_stays_as_it_is_written():
    words = parse_words(["exp_name=2024_01", "load_path=007", "log_dir=1e3", "max_steps=100_000"], SETTINGS, PRESETS)
    assert words.values == {"exp_name": "2024_01", "load_path": "007", "log_dir": "1e3", "max_steps": 100_000}


HOMES = [
    (("check", "with", *RUN, "load_path=~/a.ckpt"), "load_path={home}/a.ckpt is not a file"),
    (("with", *RUN, "resume_from='~/a.ckpt'"), "resume_from={home}/a.ckpt is not a file"),
    (("with", *RUN, "log_dir=~/file"), "log_dir={home}/file cannot be written"),
    (("check", "with", *RUN, "exp_name=~/a"), "exp_name='~/a' is not allowed"),  # no path
    (("prepare", "with", "dataset=coco", "root=~/a", "data_root=~/b"), "root='{home}/a' is not a folder"),
    (("check_data", "with", "data_root=~/a"), "data_root='{home}/a' cannot be read"),
    (("compare", "with", "runs=~/a,~/b"), "{home}/a"),
    (("predict", "with", "load_path=~/a", "text=a", "image=~/b.jpg"), "image={home}/b.jpg cannot be read"),
    (("demo", "with", "root=~/file"), "root={home}/file cannot be written"),
    (("with", *RUN, "data_root=~nobody-here/a"), "~nobody-here is the home folder of nobody here"),
    (("demo", "with", "root='a\\0b'"), "holds a NUL or bytes"),
]


@pytest.mark.parametrize(("words", "sentence"), HOMES, ids=lambda case: case[0])
def test_a_tilde_is_the_home_folder_in_every_command(words, sentence, refused, hub_cache, work, monkeypatch):
    monkeypatch.setenv("HOME", str(work / "home"))
    Path("home").mkdir()
    Path("home/file").write_text("", encoding="utf-8")
    assert sentence.format(home=work / "home") in refused(*words)


def test_several_problems_are_listed_at_once(work, capsys):
    assert main(["with", "task_mlmm", "sede=3", "x.pickle"]) == 1
    assert capsys.readouterr().err.splitlines()[0] == "error: 3 words are wrong:"
    assert main(["with", "task_mlm", "seed=a", "batch_size=b", "fusion=c"]) == 1
    out, err = capsys.readouterr()
    assert err.splitlines()[0] == "error: 3 settings are wrong:" and len(err.splitlines()) == 4 and out == ""


@pytest.mark.parametrize("ended", [False, True])
def test_a_process_that_is_silent_gives_the_first_time_to_say_what_is_wrong(ended, work, capsys, monkeypatch):
    """torchrun and srun end all processes when one has failed, perhaps before the first has spoken."""
    waited = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if ended and seconds == FIRST_SAYS:
            raise Stopped("stopped by SIGTERM", 75, local_only=True)  # as the handler of the signal does

    monkeypatch.setattr(time, "sleep", sleep)
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    for rank, said in (("1", ""), ("0", "error: seed='a'")):
        monkeypatch.setenv("RANK", rank)
        assert main(["with", "task_mlm", "seed=a"]) == 1
        out, err = capsys.readouterr()
        assert err.startswith(said) and bool(err) == bool(said) and out == ""
        assert (FIRST_SAYS in waited) == (rank == "1")
        waited.clear()


# Settings, models and machines

CONTRADICTIONS = [
    ((*RUN, "seed=a"), "seed='a' is not allowed"),
    ((*RUN, "seed=None"), "seed=None is not allowed"),
    ((*RUN, "batch_size=2.5"), "batch_size=2.5 is not allowed: give a whole number"),
    ((*ONE, "image_encoder=a"), "encoder= means one-tower and image_encoder= means two-tower; give one of the two."),
    ((*RUN, "batch_size=100", "per_gpu_batchsize=32"), "give batch_size=96 or 128, or per_gpu_batchsize=25, the large"),
    ((*RUN, "load_path=..."), "load_path=... is not a file; give the path of a checkpoint."),
    ((*RUN, "load_path=a/.../b.ckpt"), "load_path=a/.../b.ckpt is not a file"),
    ((*RUN, "vqav2_label_size=1"), "vqav2_label_size=1 is not allowed"),
    ((*RUN, "accelerator=gpu"), "accelerator=gpu, but this machine has no GPU"),
    ((*RUN, "decode_on_gpu=True"), "decode_on_gpu=True needs a GPU, but this machine has none that torch can use; leave"),
    ((*RUN, "decode_on_gpu=True", "train_transform_keys=['clip_randaug']"), "augments as loader processes do; give clip, or"),
    ((*ONE, "decode_on_gpu=True", "train_transform_keys=['pixelbert']"), "_keys=['pixelbert'] gives images of many sizes"),
    ((*RUN, "decode_on_gpu=True", "blind=True"), "decode_on_gpu=True: with blind=True no image is decoded; leave decode"),
    (("task_finetune_ref", "decode_on_gpu=True"), "decode_on_gpu=True: boxes (ref) are cut out where an image is loaded"),
    ((*RUN, "encoder=nobody/nothing"), "nobody/nothing is neither a local folder nor in the Hugging Face cache"),
    ((*RUN, "encoder=not an id"), "'not an id' is neither a folder that exists nor a Hugging Face id"),
    ((*RUN, "text_encoder=gpt"), "(model type gpt2) cannot be a tower: it"),
    ((*RUN, "encoder=gpt"), "(model type gpt2) cannot be a tower: it"),
    ((*RUN, "encoder=empty"), "The folder empty does not hold a readable Hugging Face model (found: nothing)"),
    ((*RUN, "image_encoder=google/electra-base-discriminator"), "is an encoder of texts: give it as text_encoder."),
    ((*ONE, "hidden_size=64"), "which has hidden_size=32; leave hidden_size out or give 32, or set encoder_manual_con"),
    ((*ONE, "encoder_manual_configuration=True", "hidden_size=64", "num_heads=5"), "num_heads=5 does not divide hidde"),
    ((*ONE, "encoder_manual_configuration=True", "num_heads=5"), "encoder=facebook/dino-vits16: num_heads=5 does not"),
    ((*RUN, "cross_layer_hidden_size=200"), "num_cross_layer_heads=3 does not divide cross_layer_hidden_size=200"),
    ((*RUN, "num_cross_layer_heads=7"), "num_cross_layer_heads=7 does not divide cross_layer_hidden_size=256"),
    ((*ONE, "patch_size=8"), "patch_size=8 contradicts the model facebook/dino-vits16, which has patch_size=16"),
    ((*RUN, "vocab_size=100"), "vocab_size=100 contradicts the tokenizer"),
    ((*RUN, "original_image_size=384"), "which has original_image_size=224"),
    ((*RUN, "encoder=google/electra-base-discriminator", "original_image_size=224"), "reads text; leave it out."),
    ((*RUN, "tokenizer=words"), "tokenizer=words has another vocabulary than google/electra-small-discriminator"),
    ((*RUN, "max_text_len=513"), "max_text_len=513 is more than text_encoder (electra) has positions for: give 512"),
    ((*RUN, "image_size=100"), "image_size=100 is not a multiple of patch_size=16; give 96 or 112."),
    ((*RUN, "encoder=google/electra-base-discriminator", "image_size=8"), "image_size=8 is not a multiple of patch_si"),
    ((*RUN, "freeze_encoder=True"), "freeze_encoder means something to one-tower models only"),
    ((*ONE, "fusion=merged"), "fusion means something to two-tower models only"),
    ((*RUN, "image_encoder_embedding_size=8"), "image_encoder_embedding_size: facebook/deit-tiny-patch16-224 (model t"),
    ((*RUN, "log_dir=a_file"), "log_dir=a_file cannot be written"),
    ((*RUN, "log_dir=a_file/below"), "is not a folder); give a folder that can be with log_dir="),
]  # fmt: skip


@pytest.mark.parametrize(("words", "sentence"), CONTRADICTIONS, ids=lambda case: " ".join(case[2:])[:50])
def test_what_cannot_be_run_is_refused(words, sentence, refused, hub_cache, work, monkeypatch):
    from renaissance.demo.raw import write_tokenizer

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    Path("gpt").mkdir()
    Path("gpt/config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    Path("empty").mkdir()
    Path("a_file").write_text("", encoding="utf-8")
    if "tokenizer=words" in words:
        write_tokenizer(Path("words"))
    assert sentence in refused("check", "with", *words)
    assert sentence in refused("with", *words)  # the run itself says the same, before any data is looked for


CHECKPOINTS: dict[str, Callable[[Path], Any]] = {
    "is not a file (there: old.ckpt)": lambda path: torch.save({}, path.with_name("old.ckpt")),
    "is cut short": lambda path: path.write_bytes(_saved({"format": 1, "weights": torch.zeros(1000)})[:-900]),
    "cannot be read as a checkpoint": lambda path: path.write_bytes(b"not a checkpoint"),
    "damaged": lambda path: path.write_bytes(b""),
    "is not a checkpoint of this program; this version": lambda path: torch.save({"weights": {}}, path),
    "has format 99; this version reads format 1": lambda path: torch.save({"format": 99}, path),
    "settings is None, but has to be an object": lambda path: torch.save({"format": 1, "epoch": 3}, path),
    "was not written by this program": lambda path: torch.save({"model": Path("x")}, path),  # a class: would be code
}


def _saved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


@pytest.mark.parametrize("sentence", CHECKPOINTS)
@pytest.mark.parametrize("key", ["load_path", "resume_from"])
def test_a_file_that_is_no_checkpoint_is_refused(key: str, sentence: str, refused, work):
    CHECKPOINTS[sentence](work / "file.ckpt")
    found = refused("with", *RUN, f"{key}=file.ckpt")
    assert found.startswith(f"{key}=file.ckpt ") and sentence in found


# Commands that succeed

DOCUMENTED = " max_steps=50000 num_gpus=1 num_nodes=1 per_gpu_batchsize=32 batch_size=256 data_root=data/arrow/"
TWO_TOWERS = (
    "image_encoder=facebook/deit-tiny-patch16-224 text_encoder=google/electra-small-discriminator "
    "cross_layer_hidden_size=256 num_cross_layers=6"
)
# Millions of parameters of every part, with both heads. Two-tower in all: the paper's 38.23.
PARTS = {
    "encoder=facebook/dino-vits16": {"encoder": 21.67, "fusion": 11.89, "head": 11.90, "all": 45.46},
    TWO_TOWERS: {"text tower": 13.48, "image tower": 5.52, "fusion": 11.31, "head": 7.91, "all": 38.23},
}


@pytest.mark.parametrize("task", ["task_mlm_itm", "task_mlm", "task_itm"])
@pytest.mark.parametrize("model", PARTS, ids=["one-tower", "two-tower"])
def test_documented_commands_word_for_word(task: str, model: str, full_size_cache, work, capsys):
    words = f"with {task} {model}{DOCUMENTED}".split()
    assert main(["check", *words]) == 0
    out = capsys.readouterr().out
    table = re.findall(r"^ +([a-z ]+?) +([\d.]+) M +([\d.]+) M +([\d.]+) M$", out, re.MULTILINE)
    found = {part: float(total) for part, total, _, _ in table}
    expected = PARTS[model]
    if task == "task_mlm_itm":
        assert found == expected
    else:  # without the other task's head
        assert {part: found[part] for part in expected if part not in ("head", "all")}.items() <= expected.items()
        assert found["head"] == pytest.approx(expected["head"] if task == "task_mlm" else 0, abs=0.011)
    assert all(frozen == "0.00" and total == trainable for _, total, trainable, frozen in table)
    assert re.search(r"^data_root +data/arrow/ +given$", out, re.MULTILINE)
    assert re.search(rf"^exp_name +{task.removeprefix('task_')} +preset {task}$", out, re.MULTILINE)
    assert list(work.iterdir()) == []


def test_num_gpus_without_a_gpu_warns(hub_cache, work, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["check", "with", *RUN, "num_gpus=2"]) == 0
    out = capsys.readouterr().out
    assert "warning: no GPU is used; num_gpus=2 runs 2 CPU processes instead" in out and "devices: 2 x CPU" in out
    assert main(["check", "with", *RUN]) == 0
    assert "warning" not in capsys.readouterr().out


def test_print_config_shows_values_comments_and_sources(work, capsys):
    assert main(["print_config", "with", "paper_small", "seed=7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"seed = 7 +# every random choice is .*  \[given\]", next(x for x in lines if x.startswith("seed"))
    )
    assert "[preset paper_small]" in next(x for x in lines if x.startswith("num_cross_layers"))
    assert [line.split(" = ")[0] for line in lines if " = " in line and line[0] != "#"] == list(SETTINGS)
    assert "# Optimization" in lines


def test_print_named_configs_shows_every_preset_once(work, capsys):
    assert main(["print_named_configs"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 120
    assert re.findall(r"^  (\w+)", out, re.MULTILINE) == [*config.TASKS, *config.PARTS, *config.RECIPES]
    assert re.search(r"paper_small_frozen_image +paper_small freeze_image", out)


@pytest.mark.parametrize("words", [[], ["help"], ["--help"]])
def test_help(words, capsys):
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "usage: python run.py <command>" in out and max(map(len, out.splitlines())) <= 120
    assert set(re.findall(r"^  (\w+) ", out, re.MULTILINE)) == {"with", "check", *QUERIES, *SUBCOMMANDS}


@pytest.mark.parametrize("name", ["with", "check", *QUERIES, *SUBCOMMANDS])
def test_help_of_a_command_lists_its_settings(name, capsys):
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    settings = declared(importlib.import_module(SUBCOMMANDS[name])) if name in SUBCOMMANDS else SETTINGS
    assert out.startswith(f"usage: python run.py {name} ".replace("with with", "with"))
    assert "`" not in out.partition("#")[0] and "print_config " not in out.partition("\n")[2].partition("#")[0]
    assert re.findall(r"^(\w+) = .*  # .", out, re.MULTILINE) == ([] if name == "print_named_configs" else [*settings])


# Processes of their own


def test_refusals_and_questions_do_not_wait_for_torch(work):
    """Importing torch and transformers takes seconds; a wrong word is answered before."""
    asked = [
        ["print_config", "with", "task_mlm"],
        ["print_named_configs"],
        ["with", "task_mlm", "sede=3"],
        ["with", "task_mlm", "seed=a"],
        ["with", "task_mlm", "max_steps=1", "batch_size=3", "per_gpu_batchsize=2"],
        ["with", "task_mlm", "max_steps=1", "encoder=a", "image_encoder=b"],
        ["check", "with", "task_mlm", "max_steps=1", "load_path=..."],
        ["check", "with", "task_mlm", "max_steps=1", "load_path=none.ckpt"],
        [
            "check",
            "with",
            "task_mlm",
            "max_steps=1",
            f"load_path={__file__}",
            "image_encoder=a",
            "train_transform_keys=['pixelbert']",
        ],
        ["with", "task_mlm", "max_steps=1", "resume_from=none.ckpt"],
        ["with", "task_mlm", "test_only=True", "load_path=none.ckpt"],
        ["demo", "with", "seed=a"],
        ["predict", "with", "load_path=a", "text=a", "image=/dev/zero"],
        ["with", "task_mlm", "learning_rate=much"],
        ["with", "task_mlm", "batch_size=-1"],
        ["check", "with", "no_such_preset"],
        ["prepare", "with", "dataset=coco", "root=nowhere", "data_root=nowhere"],
        ["check_data", "with", "data_root=nowhere"],
        ["compare", "with", "runs=nowhere", "output=None"],
        ["predict", "with", "load_path=nowhere", "text=a"],
        ["demo", "with", "steps=0"],
        ["serve", "with", "load_path=nowhere"],
        ["serve", "with", f"load_path={__file__}", "device=gpu"],
        ["serve", "with", f"load_path={__file__}", "host=198.51.100.1"],
    ]
    libraries = (
        "torch",
        "torchvision",
        "torchmetrics",
        "transformers",
        "pytorch_lightning",
        "lightning",
        "timm",
        "gradio",
    )
    program = (
        "import json, sys, run\nfrom renaissance.cli.main import main\n"
        f"codes = [main(words) for words in {asked!r}]\n"
        f"heavy = [m for m in {libraries!r} if m in sys.modules]\n"
        "print(json.dumps([codes, heavy]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [[0, 0] + [1] * 22, []]
    assert done.stderr.count("error: ") == len(done.stderr.splitlines()) == 22
    assert list(work.iterdir()) == []


def test_a_run_is_resumed_although_the_checkpoint_that_it_started_from_has_gone(work, monkeypatch):
    started = []
    monkeypatch.setattr("renaissance.training.train.run", lambda asked: started.append(asked) or RunFolder(None))
    assert main(["with", "task_mlm", "max_steps=1", "load_path=gone.ckpt", "resume_from=auto"]) == 0
    assert len(started) == 1


def test_a_command_of_its_own_process(run_cli, tmp_path):
    done = run_cli("with", "task_mlm", "sede=3")
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: There is no setting 'sede' (nearest: seed") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_exits_is_a_failure_with_its_place(tmp_path):
    (tmp_path / "exits.py").write_text("import sys\n\ndef main():\n    return sys.exit(0)\n", encoding="utf-8")
    program = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]; import exits\n"
        "sys.modules['renaissance.cli.main'] = exits; from renaissance.cli.entry import run_program; run_program()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "exits.py:4: return sys.exit(0))." in done.stderr, done


def test_a_reader_that_has_enough_is_no_error():
    asking = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), "print_config"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    asking.stdout.close()  # as `| head` does
    assert asking.stderr.read() == b""
    asking.stderr.close()
    assert asking.wait() == 1


def test_screen_lists_all_problems():
    words = parse_words(["a", "b=1", "seed=1"], SETTINGS, PRESETS)
    assert len(words.problems) == 2 and words.values == {"seed": 1}
