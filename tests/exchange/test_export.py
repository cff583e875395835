"""Exported folders: transformers loads them and computes the same; what comes back is equal to the bit; refusals."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from conftest import OFFLINE
from exchange.checkpoints import ANSWERS, write_checkpoint
from exchange.hub_server import hub_server
from models.families import FAMILIES, IMAGE, INSTALLED, TEXT, can_be_one_tower
from renaissance.cli.main import main
from renaissance.core.types import Batch, ImageInput, ItmTargets, TextInput
from renaissance.data.collate import stack_images
from renaissance.exchange.formats.one_file import code
from renaissance.inference.loaded import Loaded
from renaissance.runs import checkpoint
from renaissance.runs.checkpoint import read
from renaissance.tasks.base import Encodings
from small_run import Ended, equal_state

TWO, TEXT_ONE, IMAGE_ONE = (
    {"text_encoder": "bert", "image_encoder": "vit"},
    {"encoder": "bert"},
    {"encoder": "vit"},
)
PAIRS = [
    ("bert", "vit", "shared"),
    ("roberta", "clip_vision_model", "separate"),
    ("electra", "deit", "merged"),
    ("distilbert", "dinov2", "shared"),
    ("t5", "swin", "separate"),
    ("clip_text_model", "siglip_vision_model", "merged"),
    ("bart", "convnext", "shared"),
]
CLASSES = {
    "mlm": "AutoModelForMaskedLM",
    "vqa": "AutoModelForVisualQuestionAnswering",
    "nlvr2": "AutoModelForSequenceClassification",
    "snli": "AutoModelForSequenceClassification",
    "glue": "AutoModelForSequenceClassification",
    "images": "AutoModelForImageClassification",
    "itm": "RenaissanceForImageTextRetrieval",
    "irtr": "RenaissanceForImageTextRetrieval",
    "ref": "RenaissanceForReferringExpression",
}
SHOWN = {task: [name.replace("AutoModelFor", "RenaissanceFor")] for task, name in CLASSES.items()}
TASK_SETTINGS: dict[str, dict[str, Any]] = {
    "glue": {"datasets": ["sst2"], "text_only": True},
    "images": {"datasets": ["cifar10"], "image_only": True},
    "irtr": {"datasets": ["f30k"], "draw_false_text": 1},
    "nlvr2": {"datasets": ["nlvr2"]},
    "ref": {"datasets": ["refcoco"]},
    "snli": {"datasets": ["snli"]},
    "vqa": {"datasets": ["vqa"]},
}  # fmt: skip
TEXTS = ["a red circle is left of the blue square", "two small images"]


def command(capsys: pytest.CaptureFixture[str], *words: str) -> Ended:
    """Runs `python run.py export with <words>` in this process."""
    capsys.readouterr()
    code = main(["export", "with", *words])
    return Ended(code, *capsys.readouterr())


def exported(folder: Path, towers: dict[str, str], tasks: tuple[str, ...], **settings: Any) -> tuple[Loaded, Path]:
    """A checkpoint as our own code reads it, and its exported folder."""
    path = write_checkpoint(folder, towers, tasks, **settings)
    output = folder / "exported"
    assert main(["export", "with", f"load_path={path}", f"output={output}"]) == 0
    return Loaded(path), output


def theirs(folder: Path, name: str) -> Any:
    """A class of the exported file with the weights of the folder, all of them found there."""
    if name.startswith("Auto"):
        kind, options = getattr(transformers, name), {"trust_remote_code": True}
    else:
        kind, options = get_class_from_dynamic_module(f"modeling_renaissance.{name}", str(folder)), {}
    model, info = kind.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(info.values()), info
    return model.eval()


def pictures(count: int, sizes: tuple[tuple[int, int], ...] = ((40, 60), (33, 32))) -> list[Image.Image]:
    random = np.random.default_rng(3)
    return [
        Image.fromarray(random.integers(0, 256, (*sizes[number % len(sizes)], 3), np.uint8)) for number in range(count)
    ]


def own_inputs(model: Loaded, texts: list[str], images: list[Image.Image]) -> tuple[TextInput, ImageInput]:
    """As our loaders make them."""
    transform = model.image_source.transform
    pixels = [transform(torch.from_numpy(np.array(each)).permute(2, 0, 1), 0, 0) for each in images]
    return model._texts(texts), stack_images(pixels, transform.keeps_aspect)


@torch.no_grad()
def own_logits(model: Loaded, task: str, count: int = 1) -> Tensor:
    """Logits of a task of ours for two texts with so many images each."""
    text, image = own_inputs(model, TEXTS, pictures(2 * count))
    batch = Batch(torch.arange(2), text, image, {}, (count, count))
    encodings = Encodings(model.model, batch)
    if task == "mlm":
        return model.heads["mlm"].head(encodings.fuse(encodings.text(), encodings.images(), needs={"text"}).text)
    if task == "irtr":
        fused = encodings.fuse(encodings.text(), encodings.images(), needs={"pooled"})
        return model.heads["irtr"].head(fused.pooled)
    targets = ItmTargets(torch.arange(2), torch.ones(2).long(), torch.zeros(2).bool()) if task == "itm" else None
    return model.heads[task].logits(encodings, targets)


def their_inputs(folder: Path, task: str, count: int) -> dict[str, Tensor]:
    processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    images = pictures(2 * count)
    grouped = [images[:count], images[count:]] if task in ("nlvr2", "ref") else images
    batch = dict(processor(images=None if task == "glue" else grouped, text=None if task == "images" else TEXTS))
    return {name: batch[name] for name in batch if batch[name] is not None}


@torch.no_grad()
def check_logits(model: Loaded, folder: Path, task: str) -> Tensor:
    """Asserts that both compute the same logits, texts padded; returns theirs."""
    count = {"nlvr2": 2, "ref": 3}.get(task, 1)
    batch = their_inputs(folder, task, count)
    output = theirs(folder, CLASSES[task])(**batch).logits
    expected = own_logits(model, task, count)
    if task == "mlm":  # ours pads to multiples of 4, and nobody reads what stands there
        mask = batch["attention_mask"].bool()
        output, expected = output[mask], expected[:, : mask.shape[1]][mask]
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)
    return output


@pytest.mark.parametrize("towers", [TWO, TEXT_ONE, IMAGE_ONE], ids=["two-tower", "text", "image"])
@pytest.mark.parametrize("task", [*CLASSES])
def test_the_logits_of_every_task_are_the_same(task, towers, tmp_path, monkeypatch):
    model, folder = exported(tmp_path, towers, (task,), **TASK_SETTINGS.get(task, {}))
    logits = check_logits(model, folder, task)
    assert logits.std() > 1e-3
    names = ("picture", "left", "right", "box_1", "box_2")
    for name, picture in zip(names, pictures(5), strict=True):
        picture.save(tmp_path / f"{name}.jpg")
    example = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    place: dict[str, Any] = {}
    exec(example, place)
    assert place["output"].logits.shape[0] == 1 and type(place["model"]).__name__ in (CLASSES[task], *SHOWN[task])


@pytest.mark.parametrize(("text", "image", "fusion"), PAIRS)
def test_pairs_of_families_and_all_fusions_are_the_same(text, image, fusion, tmp_path):
    towers = {"text_encoder": text, "image_encoder": image}
    model, folder = exported(tmp_path, towers, ("mlm", "itm", "itc"), fusion=fusion)
    check_logits(model, folder, "mlm"), check_logits(model, folder, "itm")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*INSTALLED, *(f"one {kind}" for kind in INSTALLED if can_be_one_tower(kind))])
def test_every_family_is_the_same(kind, tmp_path):
    one, kind = kind.startswith("one "), kind.removeprefix("one ")
    side = FAMILIES[kind].modality
    towers = {"text_encoder": kind, "image_encoder": "vit"} if side == TEXT else {"text_encoder": "bert"}
    if side == IMAGE:
        towers |= {"image_encoder": kind}
    model, folder = exported(tmp_path, {"encoder": kind} if one else towers, ("mlm", "itm"))
    check_logits(model, folder, "mlm"), check_logits(model, folder, "itm")


@pytest.mark.parametrize("towers", [TWO, TEXT_ONE, IMAGE_ONE], ids=["two-tower", "text", "image"])
def test_features_of_each_side_are_those_of_contrastive_learning(towers, tmp_path):
    own, folder = exported(tmp_path, towers, ("itm", "itc"))
    model, batch = theirs(folder, "AutoModel"), their_inputs(folder, "itc", 1)
    text, image = own_inputs(own, TEXTS, pictures(2))
    with torch.no_grad():
        encodings = Encodings(own.model, Batch(torch.arange(2), text, image, {}))
        expected = [own.heads["itc"].vectors(encodings.unimodal(side), side) for side in ("text", "image")]
        pixels = batch.pop("pixel_values")
        found = model.get_text_features(**batch).pooler_output, model.get_image_features(pixels).pooler_output
    for vectors, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.nn.functional.normalize(vectors, dim=-1), wanted, rtol=0, atol=1e-5)
    assert model.itc.log_scale == own.heads["itc"].log_scale


@pytest.mark.parametrize("encoder", ["vit", "bert"])
def test_images_that_keep_their_aspect_are_padded_as_in_training(encoder, tmp_path):
    settings = {"val_transform_keys": ["pixelbert"], "train_transform_keys": ["pixelbert"]}
    model, folder = exported(tmp_path, {"encoder": encoder}, ("mlm", "itm"), **settings)
    shapes = {each.size for each in pictures(2)}
    assert len(shapes) == 2 and their_inputs(folder, "itm", 1)["pixel_mask"].min() == 0
    check_logits(model, folder, "mlm"), check_logits(model, folder, "itm")


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "I;16", "strip"])
def test_pixels_are_those_of_training(mode, tmp_path):
    model, folder = exported(tmp_path, TWO, ("itm",))
    random = np.random.default_rng(5)
    image = Image.fromarray(random.integers(0, 256, (3, 61, 4), np.uint8).repeat(20, 0), "RGBA")
    if mode == "I;16":
        image = Image.fromarray(random.integers(0, 65535, (50, 40), np.uint16))
    elif mode == "strip":
        image = Image.fromarray(random.integers(0, 256, (3, 300, 3), np.uint8))
    elif mode != "RGBA":
        image = image.convert(mode)
    processor = transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    seen = []
    model.model.embed_image = lambda images: seen.append(model.model.normalize(images))
    model._image([image])
    image.save(tmp_path / "a.png")
    for form in (image, str(tmp_path / "a.png"), np.asarray(image) if mode in ("L", "strip") else image):
        torch.testing.assert_close(processor(form).pixel_values, seen[0], rtol=0, atol=1e-6)


def test_a_fresh_process_needs_neither_this_project_nor_the_network(tmp_path):
    _, folder = exported(tmp_path, TWO, ("mlm", "vqa"), **TASK_SETTINGS["vqa"])
    script = """
import sys
from PIL import Image
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForVisualQuestionAnswering, AutoProcessor
folder, picture = sys.argv[1], Image.new("RGB", (50, 40), "red")
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor(images=picture, text="a red circle")
for kind in (AutoModel, AutoModelForMaskedLM, AutoModelForVisualQuestionAnswering):
    model = kind.from_pretrained(folder, trust_remote_code=True)
    output = model(**inputs)
print(model.config.id2label[int(output.logits.argmax())])
assert not [name for name in sys.modules if name.partition(".")[0] in ("renaissance", "pytorch_lightning", "sacred")]
"""
    variables = os.environ | {"PYTHONPATH": str(OFFLINE)}
    words = [sys.executable, "-W", "error::FutureWarning", "-c", script, str(folder)]
    done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] in ANSWERS


def test_the_file_of_code_imports_torch_transformers_and_pillow_alone():
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).partition(".")[0]
        for node in ast.walk(ast.parse(code()))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported == {"__future__", "dataclasses", "functools", "inspect", "math", "typing"} | {
        "numpy", "PIL", "torch", "transformers",
    }  # fmt: skip


@pytest.mark.parametrize("format", ["transformers", "safetensors"])
@pytest.mark.parametrize("towers", [TWO, TEXT_ONE, IMAGE_ONE], ids=["two-tower", "text", "image"])
def test_what_comes_back_is_equal_to_the_bit(towers, format, tmp_path):
    path = write_checkpoint(tmp_path, towers, ("mlm", "itm", "itc", "vqa"), **TASK_SETTINGS["vqa"])
    assert main(["export", "with", f"load_path={path}", f"output={tmp_path / 'out'}", f"format={format}"]) == 0
    before, after = read(path), read(tmp_path / "out")
    for part in ("model", "heads", "image", "labels"):
        assert equal_state(getattr(before, part), getattr(after, part)), part
    first, second = Loaded(path), Loaded(tmp_path / "out")
    assert first.tokenizer.get_vocab() == second.tokenizer.get_vocab() and first.tokenizer(TEXTS) == second.tokenizer(
        TEXTS
    )
    assert torch.equal(first.encode(pictures(2), TEXTS), second.encode(pictures(2), TEXTS))
    assert first.answer(pictures(1)[0], "red?") == second.answer(pictures(1)[0], "red?")


def test_transformers_trains_it_and_what_it_saves_comes_back(tmp_path):
    _, folder = exported(tmp_path, TWO, ("mlm", "snli"), **TASK_SETTINGS["snli"])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    batch = processor(images=pictures(2), text=TEXTS)
    items = [{name: batch[name][row] for name in batch} | {"labels": row} for row in (0, 1)] * 6
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    options = {"max_steps": 3, "per_device_train_batch_size": 4, "report_to": [], "use_cpu": True, "disable_tqdm": True}
    arguments = transformers.TrainingArguments(
        str(tmp_path / "trainer"), learning_rate=1e-2, save_strategy="no", **options
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=items)
    assert trainer.train().global_step == 3
    after = model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith("renaissance.fusion"))
    model.save_pretrained(tmp_path / "saved"), processor.save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", trust_remote_code=True)
    assert equal_state(dict(again.state_dict()), dict(after))
    assert list(Loaded(tmp_path / "saved").heads) == ["snli"]  # the head that this class has
    stored = read(tmp_path / "saved")
    assert torch.equal(stored.heads["snli.head.3.weight"], after["classifier.3.weight"])
    assert torch.equal(
        stored.model["fusion.layers.0.cross.qkv.weight"], after["renaissance.fusion.layers.0.cross.qkv.weight"]
    )


def test_it_is_pushed_to_a_hub_and_loaded_from_there(tmp_path):
    _, folder = exported(tmp_path, TWO, ("mlm",))
    script = """
import sys
from transformers import AutoModelForMaskedLM, AutoProcessor
for kind in (AutoModelForMaskedLM, AutoProcessor):
    kind.from_pretrained(sys.argv[1], trust_remote_code=True).push_to_hub("lab/model")
model = AutoModelForMaskedLM.from_pretrained("lab/model", trust_remote_code=True)
print(model(**AutoProcessor.from_pretrained("lab/model", trust_remote_code=True)(text="a red circle")).logits.shape)
"""
    with hub_server() as (address, files):
        hub = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_none", "HF_HOME": str(tmp_path / "home")}
        variables = os.environ | {"PYTHONPATH": str(OFFLINE), "HF_HUB_DISABLE_XET": "1"} | hub
        words = [sys.executable, "-c", script, str(folder)]
        done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, 5, 20])" in done.stdout
    wanted = {"config.json", "model.safetensors", "modeling_renaissance.py", "tokenizer.json", "processor_config.json"}
    assert wanted <= set(files)
    assert files["modeling_renaissance.py"].decode() == code()


def test_a_model_saved_without_heads_and_in_several_files_comes_back(tmp_path, capsys):
    own, folder = exported(tmp_path, TWO, ("mlm", "itc"))
    theirs(folder, "AutoModel").save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    shards = sorted((tmp_path / "saved").glob("model-*.safetensors"))
    assert len(shards) > 1
    transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True).save_pretrained(tmp_path / "saved")
    again = Loaded(tmp_path / "saved")
    assert list(again.heads) == ["itc"]  # which AutoModel has for get_text_features
    assert torch.equal(again.encode(pictures(2), TEXTS), own.encode(pictures(2), TEXTS))
    capsys.readouterr()
    assert main(["import", "with", f"source={folder}", f"output={tmp_path / 'a.ckpt'}"]) == 1
    assert "is a folder that `export` wrote; give it as load_path" in capsys.readouterr().err
    shards[1].unlink()
    assert main(["predict", "with", f"load_path={tmp_path / 'saved'}", "text=red"]) == 1
    assert f"{shards[1].name} cannot be read" in capsys.readouterr().err
    index = tmp_path / "saved" / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(shards[1].name, f"../{shards[1].name}"))
    assert main(["predict", "with", f"load_path={tmp_path / 'saved'}", "text=red"]) == 1
    assert "names files that do not lie beside it" in capsys.readouterr().err


def test_code_that_a_checkpoint_names_is_not_carried_on(tmp_path):
    path = write_checkpoint(tmp_path, IMAGE_ONE, ("itm", "itc"))
    stored = read(path)
    settings = json.loads(stored.tokenizer["tokenizer_config.json"])
    settings["auto_map"] = {"AutoTokenizer": [None, f"{tmp_path}--tok.Tok"]}
    (tmp_path / "tok.py").write_text("raise SystemExit('it was run')")
    bad = stored.tokenizer | {
        "tokenizer_config.json": json.dumps(settings),
        "config.json": json.dumps({"auto_map": {"AutoModel": "x"}}),
    }
    towers = {"encoder": stored.towers["encoder"] | {"auto_map": {"AutoConfig": "tok.Tok"}}}
    checkpoint.save(path, stored._replace(tokenizer=bad, towers=towers))
    assert main(["export", "with", f"load_path={path}", f"output={tmp_path / 'out'}"]) == 0
    written = [(tmp_path / "out" / name).read_text() for name in ("tokenizer_config.json", "config.json")]
    assert not [text for text in written if "tok.Tok" in text]
    theirs(tmp_path / "out", "AutoModel")
    transformers.AutoProcessor.from_pretrained(tmp_path / "out", trust_remote_code=True)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    path = write_checkpoint(tmp_path / "own", TWO, ("mlm",))

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr("renaissance.exchange.formats.source.save_file", full)
    (tmp_path / "there").mkdir()
    ended = command(capsys, f"load_path={path}", f"output={tmp_path / 'there' / 'out'}")
    assert "cannot be written (Error while serializing" in ended.sentence() and not os.listdir(tmp_path / "there")
