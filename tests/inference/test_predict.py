"""A trained model for one's own images and texts: the numbers of an evaluation, and refusals in one sentence."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

import renaissance
import small_run
from conftest import ROOT
from exchange.checkpoints import write_checkpoint
from renaissance.cli.main import main
from renaissance.core.errors import UserError
from renaissance.core.types import Example, ImageInput, TextInput
from renaissance.data.images import decode
from renaissance.inference import loaded, pictures
from renaissance.inference.heat_map import HeatMap
from renaissance.runs import checkpoint
from renaissance.runs.report import RunFolder
from renaissance.settings.declared import defaults
from renaissance.settings.resolver import ConfigResolver
from renaissance.tasks import Encodings
from renaissance.training import loading, train


@pytest.fixture(scope="module")
def home(hub_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write_coco_vg(tmp_path_factory.mktemp("predict"))


@pytest.fixture(scope="module", params=["two-tower", "one-tower"])
def path(request, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two steps."""
    from contextlib import redirect_stdout

    words = [
        word
        for word in small_run.SMALL
        if request.param == "two-tower" or "cross" not in word and "encoder" not in word
    ]
    if request.param == "one-tower":
        words.append("encoder=facebook/dino-vits16")
    log = tmp_path_factory.mktemp("runs")
    with redirect_stdout(io.StringIO()):
        arguments = [
            *words,
            f"data_root={home}",
            "datasets=['coco']",
            f"log_dir={log}",
            "max_steps=2",
            "learning_rate=0.01",
        ]
        assert main(["with", "task_mlm_itm", *arguments]) == 0
    return log / "mlm_itm" / "version_0" / "checkpoints" / "best.ckpt"


def pictures_and_texts(home: Path) -> list[tuple[bytes, str]]:
    with pa.memory_map(str(home / small_run.COCO.format("val"))) as source:
        rows = pa.ipc.open_file(source).read_all().to_pylist()
    return [(row["image"], caption) for row in rows for caption in row["caption"]]


def test_scores_are_those_of_an_evaluation(path: Path, home: Path):
    model = renaissance.load(path)
    stored = checkpoint.read(path)
    resolver = ConfigResolver({**defaults(), **stored.settings, "load_path": str(path)}, {})
    _, resolved, _ = train.prepare_run(resolver)
    loaders = loading.Loaders(resolved, loading.read_data(resolved), RunFolder(None))
    module = SimpleNamespace(batch_tasks=lambda selecting: ["itm"])
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    loaders.trainer = SimpleNamespace(lightning_module=module, strategy=strategy, global_rank=0, world_size=1)
    batch = next(iter(loaders.val_dataloader()))[0]
    encodings = Encodings(model.model, batch)
    with torch.inference_mode():
        fused = encodings.fuse(encodings.text(), encodings.images(), {"pooled"})
        expected = model.heads["itm"].head(fused.pooled).softmax(-1)[:, 1]
    samples = pictures_and_texts(home)[: len(expected)]
    found = [model.score(image, text) for image, text in samples]
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    assert torch.allclose(model.encode([i for i, _ in samples], [t for _, t in samples]), fused.pooled, atol=1e-5)


def test_the_order_in_which_heads_were_trained_does_not_matter(path: Path, home: Path, tmp_path: Path):
    """A checkpoint with heads of matching and of retrieval is asked for the first, whatever its settings begin with."""
    stored, scores = checkpoint.read(path), []
    heads = {
        name.replace("itm.", "irtr.", 1): -tensor for name, tensor in stored.heads.items() if name.startswith("itm.")
    }
    for first in ("itm", "irtr"):
        weights = {first: 1} | stored.settings["loss_names"] | {"itm": 1, "irtr": 1}
        settings = stored.settings | {"loss_names": weights, "datasets": ["coco"], "draw_false_text": 1}
        checkpoint.save(tmp_path / first, stored._replace(settings=settings, heads={**stored.heads, **heads}))
        scores.append(renaissance.load(tmp_path / first).score(*pictures_and_texts(home)[0]))
    assert scores[0] == scores[1] == renaissance.load(path).score(*pictures_and_texts(home)[0])


def test_masks_are_filled_with_the_most_probable_pieces(path: Path, home: Path):
    model = renaissance.load(path)
    image, _ = pictures_and_texts(home)[0]
    words = model.fill(image, "a [MASK] circle beside a [MASK]", top=3)
    assert len(words) == 2 and all(len(row) == 3 for row in words)
    text = model.tokenizer("a [MASK] circle beside a [MASK]".replace("[MASK]", model.tokenizer.mask_token))
    ids = torch.tensor([text["input_ids"]])
    batch_text = TextInput(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids))
    pixels = model.image_source.images(Example(0, (image,), ""), 0)[0]
    with torch.inference_mode():
        fused = model.model.fuse(
            model.model.embed_text(batch_text),
            model.model.embed_image(ImageInput(pixels[None])),
            needs={"text"},
        )
        logits = model.heads["mlm"].head(fused.text[0])
    for row, position in zip(
        words, (ids[0] == model.tokenizer.mask_token_id).nonzero().flatten().tolist(), strict=True
    ):
        shares = logits[position].softmax(-1)
        best = shares.argsort(descending=True)[:3]
        assert [word for word, _ in row] == [model.tokenizer.decode([piece]).strip() for piece in best.tolist()]
        assert [share for _, share in row] == pytest.approx(shares[best].tolist(), abs=1e-5)
    assert model.fill(None, "a [MASK]", top=1) != [], "without an image"


def test_lists_are_filled_and_answered_as_one_by_one(path: Path, home: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(loaded, "_BATCH", 2)
    model, (first, second) = renaissance.load(path), [image for image, _ in pictures_and_texts(home)[:2]]
    images, texts = (
        [first, second, first],
        ["a [MASK]", "a [MASK] circle beside a [MASK]", "the square is [MASK] and red"],
    )
    pairs = [
        (images, texts),
        (first, texts),
        (None, texts),
        (images, texts[0]),
        ([first], texts[0]),
        (first, texts[:1]),
    ]
    for image, text in pairs:
        count = max(len(each) for each in (image, text) if isinstance(each, list))
        several = model.fill(image, text, top=2)
        assert len(several) == count
        for row, found in enumerate(several):
            alone = model.fill(
                image[row] if isinstance(image, list) else image, text[row] if isinstance(text, list) else text, 2
            )
            for mask, expected in zip(found, alone, strict=True):
                assert [piece for piece, _ in mask] == [piece for piece, _ in expected]
                assert [share for _, share in mask] == pytest.approx([share for _, share in expected], abs=1e-5)
    towers = {"text_encoder": "bert", "image_encoder": "vit"}
    vqa = renaissance.load(write_checkpoint(tmp_path, towers, ("vqa",), datasets=["vqa"]))
    answers = vqa.answer(images, texts, top=2)
    alone = [vqa.answer(image, text, top=2) for image, text in zip(images, texts, strict=True)]
    assert [[name for name, _ in each] for each in answers] == [[name for name, _ in each] for each in alone]
    assert len(vqa.answer(first, texts)) == len(vqa.answer(images, texts[0])) == 3
    whole = model.encode(images, texts)
    for size in (1, 2, 5):
        torch.testing.assert_close(model.encode(images, texts, batch_size=size), whole, rtol=0, atol=1e-5)


def test_any_form_of_a_picture_is_the_same_picture(path: Path, home: Path, tmp_path: Path, monkeypatch):
    model = renaissance.load(path)
    image, text = pictures_and_texts(home)[0]
    (tmp_path / "a.png").write_bytes(image)
    monkeypatch.setenv("HOME", str(tmp_path))
    opened = Image.open(io.BytesIO(image)).convert("RGB")
    array = np.array(opened)
    forms = [image, tmp_path / "a.png", str(tmp_path / "a.png"), "~/a.png", opened, array, array[:, ::-1][:, ::-1]]
    forms.append(torch.from_numpy(array).permute(2, 0, 1))
    assert len({model.score(form, text) for form in forms}) == 1


# Pillow's modes, each with the format of a file that holds it; None: no file does.
MODES = {
    **dict.fromkeys(("1", "L", "P", "LA", "RGB", "RGBA"), "PNG"),
    **dict.fromkeys(("CMYK", "YCbCr", "LAB", "I", "I;16", "F", "PA", "RGBX"), "TIFF"),
    **dict.fromkeys(("HSV", "La", "RGBa")),
}


def in_mode(mode: str) -> Image.Image:
    """An image of many colours, half of it transparent where the mode can say so."""
    samples = np.random.default_rng(0).integers(0, 256, (20, 24, 4), dtype=np.uint8)
    colours = Image.fromarray(samples)
    through = {"La": ["LA"], "PA": ["P"], "LAB": [], "I;16": ["I"], "LA": ["RGBA"], "RGBa": ["RGBA"]}
    if mode == "LAB":
        return Image.frombytes("LAB", (24, 20), samples[..., :3].tobytes())
    if mode in ("I", "I;16"):
        return Image.fromarray(samples[..., 0].astype(np.int32) * 256 + samples[..., 1]).convert(mode)
    for each in (*through.get(mode, ["RGB"]), mode):
        colours = colours.convert(each)
    return colours


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_of_any_mode_is_read_as_its_file_is(mode: str):
    picture = in_mode(mode)
    assert picture.mode == mode
    stream = io.BytesIO()
    stored = picture.convert({"HSV": "RGB", "La": "LA", "RGBa": "RGBA"}.get(mode, mode))
    stored.save(stream, MODES[mode] or "PNG")
    try:
        expected = decode(stream.getvalue(), "it")
    except UserError:  # no decoder of training reads it, so nothing else does
        assert mode in ("F", "LAB", "YCbCr")  # Pillow 13 reads the TIFF of the last, 12 does not
        with pytest.raises(UserError, match="no readable image"):
            pictures.bytes_or_pixels(picture)
        return
    assert torch.equal(expected, pictures.bytes_or_pixels(picture)) and expected.float().std() > 10


@pytest.mark.parametrize(
    ("save", "change"),
    [({"transparency": 3}, "P"), ({"transparency": bytes(range(256))}, "P"), ({"transparency": (1, 2, 3)}, "RGB")],
)
def test_transparency_beside_the_pixels_is_read_as_from_a_file(save, change):
    stream = io.BytesIO()
    in_mode("RGB").quantize(64).convert(change).save(stream, "PNG", **save)
    opened = Image.open(io.BytesIO(stream.getvalue()))
    assert "transparency" in opened.info
    assert torch.equal(decode(stream.getvalue(), ""), pictures.bytes_or_pixels(opened))


def test_arrays_that_are_no_picture_are_refused_and_grey_ones_read():
    read = pictures.bytes_or_pixels
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert torch.equal(read(grey), torch.from_numpy(grey).expand(3, -1, -1))
    assert torch.equal(read(grey.astype(np.uint16) * 257), torch.from_numpy(grey).expand(3, -1, -1))
    cut = io.BytesIO()
    in_mode("RGB").save(cut, "JPEG")
    for image in (
        np.zeros((8, 8, 3)), np.zeros((3, 8, 8), np.uint8), np.zeros((2, 8, 8, 3), np.uint8), np.zeros(8, np.uint8),
        np.zeros((8, 8, 3), np.int64), np.zeros((0, 8, 3), np.uint8), np.array(["a"]), torch.zeros(3, 8, 8),
        torch.zeros(8, 8, 3, dtype=torch.uint8), torch.zeros(8, 8, dtype=torch.uint8),
        Image.open(io.BytesIO(cut.getvalue()[:-200])),
    ):  # fmt: skip
        with pytest.raises(UserError, match="is no readable image"):
            read(image)


def test_lists_are_scored_and_encoded_pair_by_pair(path: Path, home: Path, monkeypatch):
    model = renaissance.load(path)
    monkeypatch.setattr(loaded, "_BATCH", 2)
    samples = pictures_and_texts(home)[:5]
    images, texts = zip(*samples, strict=True)
    alone = [model.score(image, text) for image, text in samples]
    assert all(isinstance(score, float) for score in alone)
    assert model.score(images, texts) == pytest.approx(alone, abs=1e-5)
    assert model.score((each for each in images), iter(texts)) == pytest.approx(alone, abs=1e-5)
    every = [model.score(images[0], text) for text in texts]
    assert model.score(images[0], list(texts)) == pytest.approx(every, abs=1e-5)
    assert model.score(images, texts[0]) == pytest.approx([model.score(i, texts[0]) for i in images], abs=1e-5)
    assert model.score([images[0]], texts[0]) == pytest.approx(alone[:1], abs=1e-5)
    both, width = model.encode(images, texts), model.model.width
    assert both.shape == (5, model.model.pooled_size) and model.encode(images[0], texts).shape == both.shape
    assert model.encode(text=texts).shape == model.encode(image=images).shape == (5, width)
    assert (model.encode(text=texts).abs().sum(-1) > 0).all() and (model.encode(image=images).abs().sum(-1) > 0).all()
    torch.nn.Linear(width, 1)(model.encode(text=texts)).sum().backward()


def test_pictures_alone_have_no_vector_where_texts_alone_are_pooled(path: Path, home: Path, monkeypatch):
    model = renaissance.load(path)
    monkeypatch.setattr(model.model, "image_pooler", None)
    image, text = pictures_and_texts(home)[0]
    assert model.encode(image, text).shape == model.encode(text=text).shape == (1, model.model.width)
    if model.settings.model.model_type == "one-tower":  # which pools an image in the text's stead
        assert model.encode(image).abs().sum() > 0
    else:
        with pytest.raises(UserError, match="pools the text alone"):
            model.encode(image)


def test_masks_are_filled_before_a_text_is_scored(path: Path, home: Path, tmp_path: Path, capsys, monkeypatch):
    model = renaissance.load(path)
    image, _ = pictures_and_texts(home)[0]
    likely = [[("[PAD]", 0.5), ("##s", 0.2)], [("dog", 0.9)]]
    monkeypatch.setattr(loaded.Loaded, "fill", lambda *_: likely)
    assert model.complete(image, "two cat [MASK] and a [MASK] here") == "two cats and a dog here"
    monkeypatch.undo()
    filled = model.complete(image, "a red [MASK]")
    assert model.masks(filled) == 0 and filled.startswith("a red")
    (tmp_path / "a.png").write_bytes(image)
    assert main(["predict", "with", f"load_path={path}", f"image={tmp_path / 'a.png'}", "text=a red [MASK]"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"the text belongs to the image: {model.score(image, filled):.3f} (masks filled: {filled})"
    assert second.startswith("mask 1: ") and second.count(",") == 4


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["text=a"], "load_path=None: give the path of a checkpoint with load_path=."),
        (["load_path={path}"], "text=None: give a text with text=."),
        (["load_path={path}", "text=a"], "say nothing of a text without [MASK] and without image="),
        (["load_path={path}", "text=a", "image=no.jpg"], "image=no.jpg cannot be read"),
        (["load_path={path}", "text=a", "image=/dev/zero"], "image=/dev/zero is a pipe, a socket or a device"),
        (["load_path={path}", "text=a", "image={home}"], "is a folder, and no file"),
        (["load_path={path}", "text=a", "image={home}/pipe"], "is a pipe, a socket or a device"),
        (["load_path={path}", "text=a", "image={home}/empty.jpg"], "The image of image="),
        (["load_path={path}", "text=a", "image={home}/huge.jpg"], "has 10,000,000,000 bytes; at most"),
        (["load_path={path}", "text=a", "image=['a', 'b']"], "image=['a', 'b'] is not allowed"),
        (["load_path={path}", "text=a", "trust_remote_code=1"], "trust_remote_code=1 is not allowed"),
        (["load_path={path}", "text=[1]"], "text=[1] is not allowed: give a text."),
        (["load_path={path}", "text=a", "image={path}"], "The image of image="),
        (["load_path={path}", "text=a", "top=0"], "top=0 is not allowed"),
        (["load_path=no.ckpt", "text=a"], "load_path=no.ckpt is not a file"),
        (["load_path={path}", "text=a", "heatmap=a.png"], "image=None: heatmap is drawn over an image; give one"),
        (["load_path={path}", "text=a", "image={path}", "heatmap=a.jpg"], "heatmap=a.jpg is no PNG file; give a name"),
        (["load_path={path}", "text=a", "image={path}", "word=a"], "word: of a heat map; name its file with heatmap="),
        (
            ["load_path={path}", "text=a", "image={path}", "method=rollout", "target=match"],
            "target, method: of a heat map",
        ),
        (
            ["load_path={path}", "text=a", "image={path}", "method=magic"],
            "method='magic' is not allowed: give gradient or",
        ),
    ],
)
def test_refusals(words: list[str], sentence: str, path: Path, tmp_path: Path, capsys):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty.jpg").touch()
    with open(tmp_path / "huge.jpg", "wb") as huge:
        huge.truncate(10**10)  # sparse: nothing is written
    assert main(["predict", "with", *(word.format(path=path, home=tmp_path) for word in words)]) == 1
    error = capsys.readouterr().err
    assert sentence in error and len(error.strip().splitlines()) == 1


def test_a_heat_map_is_drawn(path: Path, home: Path, tmp_path: Path, capsys, monkeypatch):
    image, _ = pictures_and_texts(home)[0]
    (tmp_path / "a.png").write_bytes(image)
    output = tmp_path / "map.png"
    words = [
        "predict",
        "with",
        f"load_path={path}",
        f"image={tmp_path / 'a.png'}",
        "text=a red dog",
        f"heatmap={output}",
    ]
    assert main([*words, "word=dog"]) == 0
    assert capsys.readouterr().out == f'{output}: word "dog", by gradient\n'
    with Image.open(output) as first:
        assert first.format == "PNG" and min(first.size) > 200
    drawn = output.read_bytes()
    assert main([*words, "word=dog"]) == 0 and output.read_bytes() == drawn
    assert main([*words, "word=red", "method=rollout"]) == 0 and output.read_bytes() != drawn
    drawn = output.read_bytes()
    capsys.readouterr()
    assert main([*words, "word=cat"]) == 1
    assert (
        capsys.readouterr().err == "error: word='cat' is not in the text 'a red dog'; give one or more words of it.\n"
    )
    assert output.read_bytes() == drawn and sorted(each.name for each in tmp_path.iterdir()) == ["a.png", "map.png"]
    monkeypatch.setattr(loaded.Loaded, "__init__", lambda *_, **__: pytest.fail("it is loaded"))
    assert main([*words, f"heatmap={tmp_path}/no/map.png"]) == 1
    said = capsys.readouterr().err
    assert (
        said == f"error: '{tmp_path}/no/map.png' cannot be written (No such file or directory); give another heatmap.\n"
    )


def test_a_heat_map_that_is_empty_is_said_to_be(path: Path, home: Path, tmp_path: Path, capsys, monkeypatch):
    (tmp_path / "a.png").write_bytes(pictures_and_texts(home)[0][0])
    monkeypatch.setattr(loaded, "explain", lambda *_: HeatMap(np.zeros((2, 2)), "dog", "gradient", "word"))
    words = [f"load_path={path}", f"image={tmp_path / 'a.png'}", "text=a dog", f"heatmap={tmp_path / 'map.png'}"]
    assert main(["predict", "with", *words]) == 0
    assert capsys.readouterr().out.endswith('map.png: word "dog", by gradient: no patch weighs anything\n')


def test_entailment_is_answered(home: Path, tmp_path: Path):
    towers = {"text_encoder": "bert", "image_encoder": "vit"}
    model = renaissance.load(write_checkpoint(tmp_path, towers, ("snli",), datasets=["snli"]))
    image, text = pictures_and_texts(home)[0]
    answers = model.answer(image, text)
    assert sorted(name for name, _ in answers) == ["contradiction", "entailment", "neutral"]
    assert sum(score for _, score in answers) == pytest.approx(1)
    assert model.explain(image, text).target == answers[0][0]


def test_refusals_of_the_library(path: Path, home: Path):
    model = renaissance.load(path)
    image, text = pictures_and_texts(home)[0]
    for call, sentence in (
        (lambda: model.answer(image, text), "has no head for questions about images (its heads: mlm, itm)"),
        (lambda: model.fill(image, text), r"holds no \[MASK\]"),
        (lambda: model.encode(), "needs image, text or both"),
        (lambda: model.encode([image], [text, text]), "1 images and text 2 texts"),
        (lambda: model.score(5, text), "image=int is no image"),
        (lambda: model.score(None, text), "score needs image and text"),
        (lambda: model.score(image, 5), "text=int is no text"),
        (lambda: model.score(image, [text, None]), r"text\[1\]=NoneType is no text"),
        (lambda: model.score([[image]], text), r"image\[0\]=list is no image"),
        (lambda: model.score(image, []), "text is an empty list"),
        (lambda: model.score(image, b"a"), "text=bytes is no text"),
        (lambda: model.score(image, {text: 1}), "text=dict is no text"),
        (lambda: model.score([image], [text, text]), "1 images and text 2 texts; give as many"),
        (lambda: model.score(image, [text, "a [MASK]"]), "which no text of image-text matching does"),
        (lambda: model.fill([image, 3], "a [MASK]"), r"image\[1\]=int is no image"),
        (lambda: model.fill(image, ["a [MASK]", None]), r"text\[1\]=NoneType is no text"),
        (lambda: model.fill([image] * 2, ["a [MASK]"] * 3), "image has 2 images and text 3 texts"),
        (lambda: model.fill(image, ["a [MASK]", "a"]), r"text='a' holds no \[MASK\]"),
        (lambda: model.encode(image, text, batch_size=0), "batch_size=0 is not allowed"),
        (lambda: model.fill(image, "a [MASK]", top=0), "top=0 is not allowed"),
        (lambda: model.fill(image, "a [MASK]", top="5"), "top='5' is not allowed"),
        (lambda: model.fill(image, "a [MASK] " + "b " * 99 + "[MASK]"), r"holds 1 of its 2 \[MASK\] within its first"),
        (lambda: renaissance.load(path, device="gpu"), "device='gpu' cannot be used"),
        (lambda: renaissance.load(path, device="meta7:x"), "cannot be used"),
    ):
        with pytest.raises(UserError, match=sentence.replace("(", r"\(").replace(")", r"\)")):
            call()


def test_the_import_warns_of_nothing():
    """In a process of its own, where every warning is an error."""
    program = "import renaissance; renaissance.load; import renaissance.inference.loaded"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
