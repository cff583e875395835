"""Exported folders that other libraries load without code of ours; what cannot be held is refused; nothing is left over."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from conftest import OFFLINE
from exchange.checkpoints import write_checkpoint
from exchange.test_export import IMAGE_ONE, TASK_SETTINGS, TEXT_ONE, TEXTS, TWO, command, own_logits, pictures
from renaissance.cli.main import main
from renaissance.inference.loaded import Loaded
from renaissance.runs.checkpoint import read

ASPECT = {"val_transform_keys": ["pixelbert"], "train_transform_keys": ["pixelbert"]}
SQUARE = [picture.resize((32, 32)) for picture in pictures(2)]


def vectors(model: Loaded) -> list[torch.Tensor]:
    """Contrastive vectors of two texts and two images that need no resizing."""
    itc = model.heads["itc"]
    with torch.no_grad():
        tokens = {"text": model._text(TEXTS), "image": model._image(SQUARE)}
        return [itc.vectors(model.model.unimodal(each, side), side) for side, each in tokens.items()]


@pytest.mark.parametrize(
    ("text", "image", "narrow"),
    [("bert", "vit", False), ("roberta", "dinov2", False), ("clip_text_model", "deit", False), ("bert", "vit", True)],
)
def test_a_dual_encoder_gives_the_contrastive_vectors(text, image, narrow, tmp_path, capsys):
    towers, width = {"text_encoder": text, "image_encoder": image}, 24 if narrow else 16
    path = write_checkpoint(tmp_path, towers, ("itm", "itc"), cross_layer_hidden_size=width)
    ended = command(capsys, f"load_path={path}", f"output={tmp_path / 'out'}", "format=dual_encoder")
    if narrow:
        assert "is narrower (16) than its projection (24)" in ended.sentence()
        return
    assert ended.code == 0, ended
    folder = tmp_path / "out"
    model = transformers.VisionTextDualEncoderModel.from_pretrained(folder).eval()
    processor = transformers.VisionTextDualEncoderProcessor.from_pretrained(folder)
    inputs = processor(images=SQUARE, text=TEXTS, return_tensors="pt", padding=True, truncation=True)
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        found = model(**inputs)
    for name, wanted in zip(("text_embeds", "image_embeds"), vectors(Loaded(path)), strict=True):
        torch.testing.assert_close(found[name], wanted, rtol=0, atol=1e-5)
    assert not list(folder.glob("*.py"))


@pytest.mark.parametrize(
    "towers",
    [
        TWO,
        pytest.param({"text_encoder": "electra", "image_encoder": "deit"}, marks=pytest.mark.slow),
        pytest.param(TEXT_ONE, marks=pytest.mark.slow),
        IMAGE_ONE,
    ],
)
def test_sentence_transformers_gives_the_contrastive_vectors(towers, tmp_path, capsys):
    pytest.importorskip("sentence_transformers")
    path = write_checkpoint(tmp_path, towers, ("itm", "itc"))
    folder, two = tmp_path / "out", "encoder" not in towers
    assert command(capsys, f"load_path={path}", f"output={folder}", "format=sentence_transformers").code == 0
    script = f"""
import sys, torch
from PIL import Image
from sentence_transformers import SentenceTransformer
model = SentenceTransformer({str(folder)!r}, trust_remote_code={not two})
pictures = [Image.open(path) for path in sys.argv[2:]]
torch.save([model.encode(each, convert_to_tensor=True).cpu() for each in ({TEXTS!r}, pictures)], sys.argv[1])
assert "renaissance" not in sys.modules
"""
    files = [str(tmp_path / f"{number}.png") for number in range(2)]
    for picture, file in zip(SQUARE, files, strict=True):
        picture.save(file)
    words = [sys.executable, "-c", script, str(tmp_path / "vectors.pt"), *files]
    variables = os.environ | {"PYTHONPATH": str(OFFLINE), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    for found, wanted in zip(torch.load(tmp_path / "vectors.pt"), vectors(Loaded(path)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert two != bool([*folder.rglob("*.py")])


@pytest.mark.parametrize("task", ["", "mlm", "vqa", "nlvr2", "irtr"])
def test_a_vit_one_tower_is_a_vilt(task, tmp_path, capsys):
    tasks = (task,) if task else ("itm",)
    settings = TASK_SETTINGS.get(task, {}) | {"pooler_type": "single"}
    path, folder = write_checkpoint(tmp_path, IMAGE_ONE, tasks, **settings), tmp_path / "out"
    ended = command(capsys, f"load_path={path}", f"output={folder}", "format=vilt")
    assert ended.code == 0, ended
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, name).from_pretrained(folder).eval()
    own, count = Loaded(path), 2 if task == "nlvr2" else 1
    inputs = own.tokenizer(TEXTS, return_tensors="pt", padding=True, truncation=True, max_length=12)
    with torch.no_grad():
        pooled = own.model.fuse(own._text(TEXTS), own._image(pictures(2))).pooled
        expected = own_logits(own, task, count) if task else pooled
        pixels = own.model.normalize
        shown: list[Any] = []
        own.model.embed_image = lambda images: shown.append(pixels(images))
        own._image(pictures(2 * count))
        pixels = shown[0].unflatten(0, (2, 2)) if count == 2 else shown[0]
        output = model(**inputs, pixel_values=pixels)
    found = output.logits if task else output.pooler_output
    if task == "irtr":
        expected = expected[:, 1:] - expected[:, :1]
    if task == "mlm":
        mask = inputs["attention_mask"].bool()
        found, expected = found[mask], expected[:, : mask.shape[1]][mask]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_vilt_comes_back_by_import(tmp_path, capsys):
    path = write_checkpoint(tmp_path, IMAGE_ONE, ("vqa",), **TASK_SETTINGS["vqa"], pooler_type="single")
    folder, back = tmp_path / "out", tmp_path / "back.ckpt"
    assert command(capsys, f"load_path={path}", f"output={folder}", "format=vilt").code == 0
    assert main(["import", "with", f"source={folder}", f"output={back}", "num_heads=2"]) == 0
    first, second = read(path), read(back)
    assert first.labels == second.labels and first.image == second.image
    large = pictures(2)  # no squares of the model's size
    assert torch.equal(Loaded(path).encode(large, TEXTS), Loaded(back).encode(large, TEXTS))
    same = {name for name in first.model if torch.equal(first.model[name], second.model[name])}
    assert set(first.model) - same <= {"token_types.embedding.weight"}  # the row of a second image is no part of it
    assert all(torch.equal(first.heads[name], second.heads[name]) for name in first.heads)


REFUSED = [
    ("dual_encoder", TWO, ("mlm",), {}, "needs a head of contrastive learning (itc)"),
    ("dual_encoder", IMAGE_ONE, ("itc",), {}, "needs a two-tower"),
    (
        "dual_encoder",
        {"text_encoder": "electra", "image_encoder": "vit"},
        ("itc",),
        {},
        "the pooled output of a electra",
    ),
    ("sentence_transformers", TWO, ("mlm",), {}, "needs a head of contrastive learning (itc)"),
    ("vilt", TWO, ("mlm",), {}, "one-towers of a ViT with pooler_type=single"),
    ("vilt", TEXT_ONE, ("mlm",), {}, "one-towers of a ViT with pooler_type=single"),
    ("vilt", IMAGE_ONE, ("mlm",), {"pooler_type": "double"}, "one-towers of a ViT with pooler_type=single"),
    ("vilt", IMAGE_ONE, ("mlm",), ASPECT | {"pooler_type": "single"}, "interpolates positions"),
    ("transformers", TWO, ("snli",), TASK_SETTINGS["snli"] | {"blind": True}, "learned with blind=True"),
]


@pytest.mark.parametrize(("format", "towers", "tasks", "settings", "sentence"), REFUSED)
def test_what_a_format_cannot_hold_is_refused(format, towers, tasks, settings, sentence, tmp_path, capsys):
    path = write_checkpoint(tmp_path / "own", towers, tasks, **settings)
    (tmp_path / "there").mkdir()
    ended = command(capsys, f"load_path={path}", f"output={tmp_path / 'there' / 'out'}", f"format={format}")
    assert sentence in ended.sentence()
    assert not os.listdir(tmp_path / "there")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("own"), TWO, ("mlm",))


def test_an_output_that_is_there_is_refused(checkpoint, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    assert (
        "is there already and not empty"
        in command(capsys, f"load_path={checkpoint}", f"output={tmp_path / 'full'}").sentence()
    )
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    assert command(capsys, f"load_path={checkpoint}", f"output={tmp_path / 'link'}").code == 0
    assert (tmp_path / "link").is_symlink()
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "empty").iterdir()}
    (tmp_path / "plain").write_text("")
    assert modes == {(tmp_path / "plain").stat().st_mode & 0o777}  # others may read what this user lets them read
    under = f"output={tmp_path / 'full' / 'file' / 'x'}"
    assert "cannot be written" in command(capsys, f"load_path={checkpoint}", under).sentence()
    assert os.listdir(tmp_path / "full") == ["file"]


@pytest.mark.parametrize("words", [(), ("load_path={}",), ("output=x",), ("load_path=none.ckpt", "output=x")])
def test_a_setting_that_is_missing_is_said(words, checkpoint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sentence = command(capsys, *(word.format(checkpoint) for word in words)).sentence()
    assert sentence.startswith(("load_path=", "output=None"))
    assert not os.listdir(tmp_path)


def test_without_sentence_transformers_its_format_says_what_to_install(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    words = (f"load_path={checkpoint}", f"output={tmp_path / 'out'}", "format=sentence_transformers")
    assert "pip install 'sentence-transformers>=5.4'" in command(capsys, *words).sentence()


def _edit(folder: Path, change: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


DAMAGE = {
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors cannot be read"),
    "a pipe": (
        lambda folder: ((folder / "model.safetensors").unlink(), os.mkfifo(folder / "model.safetensors")),
        "is a pipe, a socket or a device",
    ),
    "half of the weights": (lambda folder: os.truncate(folder / "model.safetensors", 5000), "is not whole"),
    "no tokenizer": (lambda folder: [each.unlink() for each in folder.glob("tokenizer*")], "lacks files of its tokenizer"),
    "another program's": (lambda folder: _edit(folder, lambda c: c.pop("renaissance")), "`export` did not write"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
    "settings gone": (lambda folder: _edit(folder, lambda c: c["renaissance"]["settings"].clear()), "settings lack"),
    "other towers": (lambda folder: _edit(folder, lambda c: c["towers"].pop("text")), "towers are"),
    "wider": (lambda folder: _edit(folder, lambda c: c["towers"]["text"]["config"].update(hidden_size=32)), "lacks"),
    "a path": (lambda folder: _edit(folder, lambda c: c["renaissance"]["tokenizer"].append("../x.json")), "do not lie beside"),
}  # fmt: skip


@pytest.mark.parametrize("damage", [*DAMAGE])
def test_a_damaged_folder_is_refused_and_its_code_never_run(damage, checkpoint, tmp_path, capsys):
    folder = tmp_path / "out"
    assert main(["export", "with", f"load_path={checkpoint}", f"output={folder}"]) == 0
    (folder / "modeling_renaissance.py").write_text("raise SystemExit('it was run')")
    assert Loaded(folder).path == str(folder)  # with another file of code
    change, sentence = DAMAGE[damage]
    change(folder)
    capsys.readouterr()
    assert main(["predict", "with", f"load_path={folder}", "text=a [MASK]"]) == 1
    printed = capsys.readouterr().err
    assert sentence in printed and printed.count("\n") == 1 and "Traceback" not in printed


def test_a_run_is_not_resumed_from_an_exported_folder(checkpoint, tmp_path, capsys):
    assert main(["export", "with", f"load_path={checkpoint}", f"output={tmp_path / 'out'}"]) == 0
    capsys.readouterr()
    assert main(["with", "task_mlm", "max_steps=1", f"resume_from={tmp_path / 'out'}"]) == 1
    assert "is not a file" in capsys.readouterr().err


def test_the_card_says_what_was_measured_and_what_was_not(checkpoint, tmp_path):
    assert main(["export", "with", f"load_path={checkpoint}", f"output={tmp_path / 'out'}"]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Nothing that was measured is known" in card and "license: other  # fill in" in card
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(checkpoint, run / "checkpoints" / "best.ckpt")
    files = {"val.arrow": {"bytes": 5, "ends": "ab12"}}
    record = {"settings": {"blind_run": None}, "versions": {"command": "run.py with x"}, "data": {"val": files}}
    detail = {"interval": [0.25, 0.75], "baseline": {"majority": 0.4}, "examples": 8}
    (run / "settings.json").write_text(json.dumps(record))
    (run / "results.json").write_text(json.dumps({"val": {"mlm": {"accuracy": 0.5}}}))
    (run / "results_details.json").write_text(json.dumps({"val": {"mlm": {"accuracy": detail}}}))
    assert main(["export", "with", f"load_path={run / 'checkpoints' / 'best.ckpt'}", f"output={tmp_path / 'two'}"]) == 0
    card = (tmp_path / "two" / "README.md").read_text()
    assert "| val | mlm | accuracy | 0.5000 | 0.2500 to 0.7500 | majority 0.4000 | 8 |" in card
    assert "run.py with x" in card and "val.arrow | bytes 5, ends ab12" in card and "No blind baseline" in card
    assert main(["export", "with", f"load_path={tmp_path / 'two'}", f"output={tmp_path / 'again'}"]) == 0
    again = (tmp_path / "again" / "README.md").read_text()
    assert again.replace("# again", "# two").replace('"again"', '"two"') == card  # what was measured goes along
    state = load_file(tmp_path / "again" / "model.safetensors")
    save_file(
        state | {name: tensor + 1 for name, tensor in state.items() if name.endswith("bias")},
        tmp_path / "again" / "model.safetensors",
    )
    assert main(["export", "with", f"load_path={tmp_path / 'again'}", f"output={tmp_path / 'other'}"]) == 0
    assert "0.5000" not in (tmp_path / "other" / "README.md").read_text()  # of these weights nothing was measured


def test_what_goes_out_names_no_folder_of_this_machine(checkpoint, tmp_path):
    """The towers and the tokenizer were local folders."""
    for format in ("transformers", "safetensors"):
        folder = tmp_path / format
        assert main(["export", "with", f"load_path={checkpoint}", f"output={folder}", f"format={format}"]) == 0
        texts = {path.name: path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file()}
        assert [name for name, text in texts.items() if str(checkpoint.parent) in text] == []
        assert "`text_encoder` (text_encoder)" in texts["README.md"]


def test_a_one_towers_card_lists_no_setting_of_two_towers(tmp_path):
    path = write_checkpoint(tmp_path / "own", IMAGE_ONE, ("mlm",), max_text_len=11)
    assert main(["export", "with", f"load_path={path}", f"output={tmp_path / 'out'}"]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| `max_text_len` | `11` |" in card and "cross_layer" not in card


def test_folders_that_are_not_read_back_say_why(checkpoint, tmp_path, capsys):
    (tmp_path / "vectors").mkdir()
    (tmp_path / "vectors" / "modules.json").write_text("[]")
    (tmp_path / "empty").mkdir()
    for name, why in (
        ("vectors", "a folder of format=sentence_transformers without config.json"),
        ("empty", "a folder without"),
    ):
        sentence = command(capsys, f"load_path={tmp_path / name}", f"output={tmp_path / 'out'}").sentence()
        assert why in sentence and "give a checkpoint, or a folder of format=transformers or safetensors" in sentence


def test_heads_that_no_auto_class_finds_are_named(tmp_path, capsys):
    path = write_checkpoint(tmp_path / "own", TWO, ("itm", "vqa"), **TASK_SETTINGS["vqa"])
    ended = command(capsys, f"load_path={path}", f"output={tmp_path / 'out'}")
    assert "AutoModelForVisualQuestionAnswering, RenaissanceForImageTextRetrieval" in ended.out
    assert (
        'modeling_renaissance.RenaissanceForImageTextRetrieval", "out"' in (tmp_path / "out" / "README.md").read_text()
    )
