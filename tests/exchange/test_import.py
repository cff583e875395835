"""Import of models that no golden file has, and every refusal."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    ViltConfig,
    ViltForImageAndTextRetrieval,
    ViltForImagesAndTextClassification,
    ViltForMaskedLM,
    ViltForQuestionAnswering,
    ViltModel,
)

from exchange.golden import Raw, write_tokenizer
from renaissance.cli.main import main
from renaissance.core.errors import UserError
from renaissance.core.types import ImageInput, TextInput
from renaissance.exchange.foreign import read_foreign
from renaissance.exchange.importer import import_model, write
from renaissance.inference.loaded import Loaded
from small_run import Ended, write_pairs

SIZES = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "image_size": 32, "patch_size": 8, "max_position_embeddings": 12, "max_image_length": -1, "layer_norm_eps": 1e-6,
}  # fmt: skip
ANSWERS = {0: "two", 1: "red", 2: "yes"}


def command(capsys: pytest.CaptureFixture[str], *words: str) -> Ended:
    """Runs `python run.py <words>` in this process."""
    capsys.readouterr()
    code = main(words)
    return Ended(code, *capsys.readouterr())


def vilt(kind: type, folder: Path, **more: Any) -> Any:
    """A random model of the Hub's form in a folder, with weights of a size that shows."""
    torch.manual_seed(0)
    model = kind(ViltConfig(**SIZES, **more)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


def loaded(folder: Path, tmp_path: Path) -> Loaded:
    """As a command reads what `import` has written."""
    target = tmp_path / "imported.ckpt"
    write(target, import_model(read_foreign(str(folder), allow_download=False)).stored)
    model = Loaded(target)
    model.model.normalize = Raw()
    return model


def inputs() -> tuple[dict[str, torch.Tensor], TextInput, ImageInput]:
    """Padded texts, and images of two sizes, for both."""
    torch.manual_seed(1)
    ids = torch.randint(5, 100, (2, 9))
    mask = torch.arange(9) < torch.tensor([9, 4])[:, None]
    ids[~mask] = 0
    pixels, sizes = torch.randn(2, 3, 48, 40), [(48, 40), (24, 32)]
    shown = torch.zeros(2, 48, 40)
    for each, (height, width) in zip(shown, sizes, strict=True):
        each[:height, :width] = 1
    pixels = pixels * shown[:, None]
    theirs = {"input_ids": ids, "attention_mask": mask.long(), "token_type_ids": torch.zeros_like(ids)}
    theirs |= {"pixel_values": pixels, "pixel_mask": shown.long()}
    return theirs, TextInput(ids, mask, torch.zeros_like(ids)), ImageInput(pixels, sizes)


@torch.no_grad()
@pytest.mark.parametrize("kind", [ViltForMaskedLM, ViltForQuestionAnswering, ViltForImageAndTextRetrieval, ViltModel])
def test_the_hubs_vilt_computes_the_same(kind: type, tmp_path: Path):
    model = vilt(kind, tmp_path / "vilt", **({"id2label": ANSWERS} if kind is ViltForQuestionAnswering else {}))
    theirs, text, image = inputs()
    ours = loaded(tmp_path / "vilt", tmp_path)
    fused = ours.model.fuse(ours.model.embed_text(text), ours.model.embed_image(image))
    if kind is ViltModel:
        assert torch.allclose(fused.pooled, model(**theirs).pooler_output, atol=1e-5)
        return
    expected = model(**theirs).logits
    if kind is ViltForMaskedLM:
        found, expected = ours.heads["mlm"].head(fused.text)[text.attention_mask], expected[text.attention_mask]
    elif kind is ViltForQuestionAnswering:
        found = ours.heads["vqa"].head(fused.pooled)
        assert tuple(ours.heads["vqa"].labels) == tuple(ANSWERS.values())
    else:
        found = ours.heads["irtr"].head(fused.pooled).diff()
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_the_hubs_vilt_of_pairs_of_images_computes_the_same(tmp_path: Path):
    model = vilt(ViltForImagesAndTextClassification, tmp_path / "vilt", num_images=2, modality_type_vocab_size=3)
    theirs, text, image = inputs()
    both = theirs | {
        name: torch.stack([theirs[name], theirs[name].flip(0)], 1) for name in ("pixel_values", "pixel_mask")
    }
    ours = loaded(tmp_path / "vilt", tmp_path)
    swapped = ImageInput(image.pixels.flip(0), image.sizes[::-1])
    pooled = [
        ours.model.fuse(ours.model.embed_text(text), ours.model.embed_image(each), slot).pooled
        for slot, each in enumerate((image, swapped))
    ]
    found = ours.heads["nlvr2"].head(torch.cat(pooled, 1))
    assert torch.allclose(found, model(**both).logits, atol=1e-4, rtol=1e-5)


def test_the_command_writes_what_predict_takes(tmp_path: Path, capsys):
    vilt(ViltForQuestionAnswering, tmp_path / "vilt", id2label=ANSWERS)
    Image.new("RGB", (40, 30), (200, 10, 10)).save(tmp_path / "red.png")
    done = command(capsys, "import", "with", f"source={tmp_path / 'vilt'}", f"output={tmp_path / 'new' / 'vilt.ckpt'}")
    assert done.code == 0, done.err
    assert "mapped: " in done.out and "written: " in done.out
    asked = f"load_path={tmp_path / 'new' / 'vilt.ckpt'}", f"image={tmp_path / 'red.png'}", "text=w3 w4"
    done = command(capsys, "predict", "with", *asked)
    assert done.code == 0 and all(answer in done.out for answer in ANSWERS.values())


class Payload:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def damaged(kind: str, folder: Path) -> str:
    """A source that is refused."""
    file = folder / "a.ckpt"
    if kind == "payload":
        torch.save({"state_dict": {"a": torch.zeros(2)}, "hyper_parameters": Payload()}, file)
    elif kind == "cut short":
        torch.save({"state_dict": {"a": torch.zeros(2000)}}, file)
        file.write_bytes(file.read_bytes()[:3000])
    elif kind == "no tensors":
        torch.save({"state_dict": {"a": 1}}, file)
    elif kind == "unknown":
        torch.save({"state_dict": {"resnet.conv": torch.zeros(2)}}, file)
    elif kind == "half":
        torch.save({"state_dict": {"transformer.blocks.0.norm1.weight": torch.zeros(2)}}, file)
    elif kind == "an older pickle":
        file.write_bytes(pickle.dumps({"state_dict": {}}))
    else:
        return str(folder / "nowhere")
    return str(file)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("payload", "holds the name .*system"),
        ("cut short", "cannot be read"),
        ("no tensors", "has no state_dict of tensors"),
        ("unknown", "is of no program that is known .*resnet.conv"),
        ("half", "is not whole: it lacks tensors of the image embeddings and the text embeddings and the blocks"),
        ("an older pickle", "cannot be read"),
        ("nowhere", "nowhere"),
    ],
)
def test_what_cannot_be_imported_is_one_sentence_and_leaves_nothing(kind: str, sentence: str, tmp_path: Path, capsys):
    source, output = damaged(kind, tmp_path), tmp_path / "out" / "new.ckpt"
    done = command(capsys, "import", "with", f"source={source}", f"output={output}", "allow_download=False")
    assert done.code == 1 and done.err.startswith("error: ") and done.err.count("\n") == 1
    assert re.search(sentence, done.err)
    assert not output.parent.exists()


def test_tensors_that_nobody_can_explain_are_named(tmp_path: Path, capsys):
    model = vilt(ViltForMaskedLM, tmp_path / "vilt")
    state = {name: each.clone() for name, each in model.state_dict().items()}
    save_file(
        state | {"vilt.strange.weight": torch.zeros(1)}, tmp_path / "vilt" / "model.safetensors", {"format": "pt"}
    )
    output = tmp_path / "new.ckpt"
    done = command(capsys, "import", "with", f"source={tmp_path / 'vilt'}", f"output={output}")
    assert done.code == 1 and "vilt.strange.weight" in done.out and "nobody can explain" in done.err
    assert not output.exists()


def changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Changes the tensors of a folder."""
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, {"format": "pt"})


DAMAGES: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "a block's tensor": (lambda s: s.pop("vilt.encoder.layer.0.output.dense.weight"), "lack parameters of the encoder"),
    "the types": (
        lambda s: s.pop("vilt.embeddings.token_type_embeddings.weight"),
        "is not whole: nothing makes token_types",
    ),
    "half a head": (lambda s: s.pop("classifier.3.bias"), "is not whole: nothing makes vqa.head.3.bias"),
    "the head": (
        lambda s: [s.pop(name) for name in list(s) if name.startswith("classifier")],
        "no weights of that head",
    ),
    "the table": (lambda s: s.pop("vilt.embeddings.position_embeddings"), "lacks tensors of the image embeddings"),
    "the class token": (lambda s: s.pop("vilt.embeddings.cls_token"), "lack parameters of the encoder"),
    "NaN": (lambda s: s["vilt.pooler.dense.bias"].fill_(math.nan), "holds NaN or infinite .*vilt.pooler.dense.bias"),
    "another width": (
        lambda s: s.update({"vilt.pooler.dense.bias": torch.zeros(3)}),
        r"pooler.dense.bias makes \(3,\), but has",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_half_of_a_model_is_refused(damage: str, tmp_path: Path):
    vilt(ViltForQuestionAnswering, tmp_path / "vilt", id2label=ANSWERS)
    change, sentence = DAMAGES[damage]
    changed(tmp_path / "vilt", change)
    with pytest.raises(UserError, match=sentence) as refusal:
        import_model(read_foreign(str(tmp_path / "vilt"), allow_download=False))
    assert "/tmp" not in str(refusal.value).replace(str(tmp_path), "")


STRANGE = ("vilt.encoder.layer.0.adapter.weight", "vilt.embeddings.patch_embeddings.norm.weight", "classifier.9.weight")


@pytest.mark.parametrize("key", STRANGE)
def test_a_tensor_among_known_ones_that_nobody_can_explain_is_named(key: str, tmp_path: Path):
    vilt(ViltForQuestionAnswering, tmp_path / "vilt", id2label=ANSWERS)
    changed(tmp_path / "vilt", lambda state: state.update({key: torch.zeros(1)}))
    result = import_model(read_foreign(str(tmp_path / "vilt"), allow_download=False))
    assert result.stored is None and f"not explained: 1 ({key})" in result.lines


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("hidden_act", "relu", "says hidden_act=relu, and only gelu"),
        ("qkv_bias", False, "says qkv_bias=False"),
        ("layer_norm_eps", 0.1, "layer_norm_eps=0.1; up to 1e-5"),
        ("layer_norm_eps", "small", "layer_norm_eps"),
        ("architectures", 3, "architectures"),
        ("id2label", {"1": "a", "2": "b", "3": "c"}, "does not number the answers from 0"),
        ("id2label", {"0": "a", "1": "a", "2": "c"}, "names an answer twice"),
        ("model_type", "bert", "is a model of type 'bert'"),
    ],
)
def test_what_a_config_says_is_built_or_refused(field: str, value: Any, sentence: str, tmp_path: Path):
    vilt(ViltForQuestionAnswering, tmp_path / "vilt", id2label=ANSWERS)
    path = tmp_path / "vilt" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(UserError, match=sentence):
        import_model(read_foreign(str(tmp_path / "vilt"), allow_download=False))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xef\xbb\xbfyes\r\nno\r\nred\r\n\r\n", None),
        ("é\nno\nred".encode("latin-1"), "is no text in UTF-8"),
        (b"yes\nyes\nred\n", "names an answer twice, or an empty one"),
        (b"yes\n\nred\n", "names an answer twice, or an empty one"),
    ],
)
def test_a_file_of_answers(content: bytes, sentence: str | None, tmp_path: Path, capsys):
    vilt(ViltForQuestionAnswering, tmp_path / "vilt", id2label=ANSWERS)
    (tmp_path / "answers.txt").write_bytes(content)
    output = tmp_path / "new.ckpt"
    words = f"source={tmp_path / 'vilt'}", f"answers={tmp_path / 'answers.txt'}", f"output={output}"
    done = command(capsys, "import", "with", *words)
    assert done.code == (sentence is not None) and (sentence or "") in done.err
    assert sentence or tuple(Loaded(output).heads["vqa"].labels) == ("yes", "no", "red")


def test_another_vocabulary_is_refused(tmp_path: Path):
    vilt(ViltForMaskedLM, tmp_path / "vilt")
    other = write_tokenizer(tmp_path / "other", pieces=90)
    with pytest.raises(UserError, match=r"has 100 word embeddings, but tokenizer=.*other has 90 pieces"):
        import_model(read_foreign(str(tmp_path / "vilt"), allow_download=False), other)


def test_answers_are_as_many_as_the_head_has(tmp_path: Path):
    vilt(ViltForQuestionAnswering, tmp_path / "vilt", id2label=ANSWERS)
    source = read_foreign(str(tmp_path / "vilt"), allow_download=False)
    with pytest.raises(UserError, match="answers VQA with 3 answers, and answers= names 2"):
        import_model(source, answers=["yes", "no"])


@pytest.mark.parametrize("words", [("output=a.ckpt",), ("source=a",), ("source=a", "output=there.ckpt")])
def test_both_ends_have_to_be_given(words: tuple[str, ...], tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.ckpt").write_bytes(b"mine")
    done = command(capsys, "import", "with", *words)
    assert done.code == 1 and ("=None: give" in done.err or "is there already" in done.err)
    assert (tmp_path / "there.ckpt").read_bytes() == b"mine"


def test_load_path_of_another_program_says_which_command_imports_it(tmp_path: Path, capsys):
    file = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"transformer.cls_token": torch.zeros(1)}}, file)
    done = command(capsys, "predict", "with", f"load_path={file}", "text=a")
    assert done.code == 1 and f"import with source={file}" in done.err


def test_a_file_of_lightnings_classes_is_read(tmp_path, capsys):
    from pytorch_lightning.utilities.parsing import AttributeDict

    settings = AttributeDict(config=AttributeDict(num_heads=4, shape=torch.Size([2, 3])))
    torch.save({"state_dict": {"a.weight": torch.ones(2)}, "hyper_parameters": settings}, tmp_path / "old.ckpt")
    source = read_foreign(str(tmp_path / "old.ckpt"), allow_download=False)
    assert source.settings == {"num_heads": 4, "shape": (2, 3)} and torch.equal(source.state["a.weight"], torch.ones(2))


def test_every_key_is_shown(tmp_path, capsys):
    model = vilt(ViltForMaskedLM, tmp_path / "hub")
    words = (f"source={tmp_path / 'hub'}", f"output={tmp_path / 'a.ckpt'}", "show_keys=True", "allow_download=False")
    ended = command(capsys, "import", "with", *words)
    assert ended.code == 0
    lines = ended.out.splitlines()
    for key in load_file(tmp_path / "hub" / "model.safetensors"):
        assert sum(line.startswith((f"{key} -> ", f"{key}: unused")) for line in lines) == 1, key
    assert any(line.endswith("-> model:text_pooler.dense.weight") for line in lines) and model is not None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), ["pixelbert", "pixelbert"]),
        (("val_transform_keys=['imagenet']",), ["imagenet", "imagenet"]),
        (("randaug",), ["imagenet_randaug", "imagenet"]),
    ],
)
def test_a_run_from_images_of_their_own_aspect_goes_on_so(given, expected, tmp_path, capsys):
    vilt(ViltForQuestionAnswering, tmp_path / "hub", id2label=ANSWERS)
    words = (f"source={tmp_path / 'hub'}", f"output={tmp_path / 'a.ckpt'}", "allow_download=False")
    assert command(capsys, "import", "with", *words).code == 0
    write_pairs(tmp_path / "arrow" / "mine_train.arrow", 6), write_pairs(tmp_path / "arrow" / "mine_val.arrow", 3)
    run = ("task_mlm_itm", "datasets=['mine']", f"data_root={tmp_path / 'arrow'}", f"log_dir={tmp_path / 'runs'}")
    sizes = ("batch_size=2", "per_gpu_batchsize=2", "num_workers=0", "max_steps=1")
    assert command(capsys, "with", *run, *sizes, f"load_path={tmp_path / 'a.ckpt'}", *given).code == 0
    settings = json.loads(next((tmp_path / "runs").rglob("settings.json")).read_text())["settings"]
    assert [settings["train_transform_keys"], settings["val_transform_keys"]] == [[each] for each in expected]


def test_a_folder_with_half_of_its_weights_is_refused(tmp_path, capsys):
    vilt(ViltForMaskedLM, tmp_path / "hub")
    os.truncate(tmp_path / "hub" / "model.safetensors", 5000)
    words = (f"source={tmp_path / 'hub'}", f"output={tmp_path / 'a.ckpt'}", "allow_download=False")
    assert "model.safetensors cannot be read" in command(capsys, "import", "with", *words).sentence()
