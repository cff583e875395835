"""A trained model for one's own pictures and texts: the numbers of an evaluation, and refusals in one sentence."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

import renaissance
import small_run
from renaissance import checkpoint, loading, train
from renaissance.cli import main
from renaissance.data.samples import RawSample
from renaissance.draft import Draft
from renaissance.errors import UserError
from renaissance.presets import defaults_of
from renaissance.report import RunFolder
from renaissance.tasks import Encodings


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
    draft = Draft({**defaults_of(train_config()), **stored.settings, "load_path": str(path)}, {})
    resolved = train.prepare_run(draft)
    trainer = train._trainer(resolved.settings, [], 1, validates=True)
    loaders = loading.Loaders(resolved, loading.read_data(resolved), trainer, RunFolder(None))
    batch = next(iter(loaders.evaluation("val")))[0]
    encodings = Encodings(model.model, batch)
    with torch.inference_mode():
        fused = encodings.fuse(encodings.text(), encodings.images(), {"pooled"})
        expected = model.heads["itm"].head(fused.pooled).softmax(-1)[:, 1]
    samples = pictures_and_texts(home)[: len(expected)]
    found = [model.score(image, text) for image, text in samples]
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    assert torch.allclose(model.encode([i for i, _ in samples], [t for _, t in samples]), fused.pooled, atol=1e-5)


def train_config():
    from renaissance import config

    return config.ex


def test_masks_are_filled_with_the_most_probable_pieces(path: Path, home: Path):
    model = renaissance.load(path)
    image, _ = pictures_and_texts(home)[0]
    words = model.fill(image, "a [MASK] circle beside a [MASK]", top=3)
    assert len(words) == 2 and all(len(row) == 3 for row in words)
    text = model.tokenizer("a [MASK] circle beside a [MASK]".replace("[MASK]", model.tokenizer.mask_token))
    ids = torch.tensor([text["input_ids"]])
    batch_text = renaissance.predict.TextInput(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids))
    pixels = model._source.pictures(RawSample(0, (image,), ""), 0)[0]
    with torch.inference_mode():
        fused = model.model.fuse(
            model.model.embed_text(batch_text),
            model.model.embed_image(renaissance.predict.ImageInput(pixels[None])),
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
    assert model.fill(None, "a [MASK]", top=1) != [], "without a picture"


def test_any_form_of_a_picture_is_the_same_picture(path: Path, home: Path, tmp_path: Path):
    model = renaissance.load(path)
    image, text = pictures_and_texts(home)[0]
    (tmp_path / "a.png").write_bytes(image)
    opened = Image.open(io.BytesIO(image))
    forms = [image, tmp_path / "a.png", str(tmp_path / "a.png"), opened, np.array(opened)]
    assert len({model.score(form, text) for form in forms}) == 1


def test_the_command_prints_what_the_heads_say(path: Path, home: Path, tmp_path: Path, capsys):
    (tmp_path / "a.png").write_bytes(pictures_and_texts(home)[0][0])
    assert main(["predict", "with", f"load_path={path}", f"image={tmp_path / 'a.png'}", "text=a red [MASK]"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("the text belongs to the picture: 0.") and second.startswith("mask 1: ")
    assert second.count(",") == 4


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["text=a"], "load_path=None: give the path of a checkpoint with load_path=."),
        (["load_path={path}"], "text=None: give a text with text=."),
        (["load_path={path}", "text=a"], "say nothing of a text without [MASK] and without image="),
        (["load_path={path}", "text=a", "image=no.jpg"], "image=no.jpg cannot be read"),
        (["load_path={path}", "text=a", "image={path}"], "cannot be decoded"),
        (["load_path={path}", "text=a", "top=0"], "top=0 is not allowed"),
        (["load_path=no.ckpt", "text=a"], "load_path=no.ckpt is not a file"),
    ],
)
def test_refusals(words: list[str], sentence: str, path: Path, capsys):
    assert main(["predict", "with", *(word.format(path=path) for word in words)]) == 1
    error = capsys.readouterr().err
    assert sentence in error and len(error.strip().splitlines()) == 1


def test_refusals_of_the_library(path: Path, home: Path):
    model = renaissance.load(path)
    image, text = pictures_and_texts(home)[0]
    for call, sentence in (
        (lambda: model.answer(image, text), "has no head for vqa (its heads: mlm, itm)"),
        (lambda: model.fill(image, text), r"holds no \[MASK\]"),
        (lambda: model.encode(), "needs image, text or both"),
        (lambda: model.encode([image], [text, text]), "1 pictures and 2 texts"),
        (lambda: model.score(5, text), "image=int is no picture"),
    ):
        with pytest.raises(UserError, match=sentence.replace("(", r"\(").replace(")", r"\)")):
            call()
