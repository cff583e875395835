"""Probes by the command line: scores of pairs as the model gives them one by one, whatever the batches; and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BertTokenizerFast, ViltConfig, ViltModel

import renaissance
import small_probes
from exchange.checkpoints import write_checkpoint
from renaissance.cli.main import main
from renaissance.config import TASKS
from renaissance.data.text import encode
from renaissance.evaluation.probes import RULES
from renaissance.inference.loaded import Loaded
from small_run import SMALL, command, results, train, write_coco_vg


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the arrow files of all benchmarks."""
    folder = tmp_path_factory.mktemp("probes")
    for name in small_probes.NAMES:
        small_probes.arrows(name, folder / "raw" / name, folder / "probes")
    write_coco_vg(folder / "data" / "arrow")
    return folder


@pytest.fixture
def work(place: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Path:
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def trained(work: Path, capsys) -> Path:
    """A checkpoint with the heads of mlm, itm and itc."""
    folder = work / "result" / "mlm_itm_itc" / "version_0"
    if not folder.exists():
        train(
            capsys, "task_mlm_itm_itc", *SMALL, "max_steps=2", "batch_size=8", "learning_rate=0.01", "final_test=False"
        )
    return folder / "checkpoints" / "last.ckpt"


def test_there_is_a_rule_and_a_preset_for_every_benchmark():
    asked = {name for preset, of in TASKS.items() if preset.startswith("task_probe_") for name in of["datasets"]}
    assert asked == {*TASKS["task_probes"]["datasets"]} == {*RULES} == {*small_probes.NAMES}


def probe(capsys: pytest.CaptureFixture[str], trained: Path, *words: str) -> Path:
    """The run folder of a command that probes."""
    return train(capsys, *words, f"load_path={trained}", "data_root=probes", "num_workers=0")


def frame(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(folder / "predictions" / f"probe_{name}.parquet").set_index("id")


def pictures(row: small_probes.Row) -> list[Image.Image]:
    side = small_probes.SIZE if row.box is None else tuple(map(int, row.box[2:]))
    return [Image.new("RGB", side, colour) for colour in row.colours]


def test_scores_are_those_of_the_model_one_by_one(trained, work, capsys):
    """Every benchmark in one command: pairs by `Model.score`, texts alone by masking one piece after the other."""
    folder = probe(capsys, trained, "task_probes", "exp_name=all")
    found, model = results(folder), renaissance.load(str(trained))
    assert set(found) == {*small_probes.NAMES}
    asked = {
        name: small_probes.write(name, work / "again" / name) for name in ("winoground", "aro_relation", "valse", "vsr")
    }
    for name, splits in asked.items():
        rows, of = splits.get("test") or splits[name], frame(folder, name)
        assert len(of) == len(rows)
        for row in rows:
            stored, shown = of.loc[row.id], pictures(row)
            assert stored["texts"].tolist() == row.texts and [[*each] for each in stored["correct"]] == row.correct
            odds = [[logit(model.score(image, text)) for text in row.texts] for image in shown]
            np.testing.assert_allclose(np.stack(stored["scores"]), odds, atol=2e-4)
    lines = (folder / "results.md").read_text(encoding="utf-8").splitlines()
    assert sum("| winoground |" in line for line in lines) >= 3 and lines[2].startswith("| winoground | group | ")
    entries = [
        json.loads(line) for line in (folder / "submissions" / "winoground_scores.jsonl").read_text().splitlines()
    ]
    assert len(entries) == 4 * len(frame(folder, "winoground")) and {*entries[0]} == {"label", "score"}


def logit(probability: float) -> float:
    return float(np.log(probability) - np.log1p(-probability))


def test_batches_change_no_number(trained, work, capsys):
    words = ("task_probes", 'datasets=["winoground","sugarcrepe_pp","whatsup_a"]')
    one = probe(capsys, trained, *words, "eval_batch_size=1", "exp_name=ones")
    many = probe(capsys, trained, *words, "eval_batch_size=50", "exp_name=many")
    assert results(one) == results(many)
    for name in ("winoground", "sugarcrepe_pp", "whatsup_a"):
        first, second = frame(one, name), frame(many, name)
        for column in ("blind_scores", "text_scores"):
            np.testing.assert_allclose(np.stack(first[column]), np.stack(second[column]), atol=1e-4)


def test_blind_scores_are_those_of_the_mean_picture_and_texts_alone_of_their_pieces(trained, work, capsys):
    folder, model = probe(capsys, trained, "task_probe_sugarcrepe", "exp_name=alone"), renaissance.load(str(trained))
    mean = torch.load(trained, weights_only=True)["image"]["mean"]
    grey = Image.new("RGB", (9, 9), tuple(round(255 * channel) for channel in mean))
    row = frame(folder, "sugarcrepe").iloc[0]
    np.testing.assert_allclose(
        row["blind_scores"], [logit(model.score(grey, text)) for text in row["texts"]], atol=2e-4
    )
    np.testing.assert_allclose(row["text_scores"], [likelihood(model, text) for text in row["texts"]], atol=2e-4)


@torch.no_grad()
def test_texts_of_sugarcrepe_plus_plus_are_compared_by_their_vectors_whatever_scores_pairs(trained, work, capsys):
    stored = torch.load(trained, weights_only=True)
    torch.manual_seed(0)  # after two steps all texts have nearly one vector
    stored["model"] = {
        name: tensor + 0.3 * torch.randn_like(tensor) if tensor.is_floating_point() and tensor.ndim == 2 else tensor
        for name, tensor in stored["model"].items()
    }
    torch.save(stored, trained := work / "stirred.ckpt")
    folder, model = probe(capsys, trained, "task_probe_sugarcrepe_pp", "exp_name=pp"), renaissance.load(str(trained))
    found, rows = results(folder)["sugarcrepe_pp"]["probe"], frame(folder, "sugarcrepe_pp")
    assert {*rows["score_by"]} == {"itm"} and 0 <= found["text_to_text"] <= 1 and "text_to_text_swap_obj" in found
    itc, right = model.heads["itc"], []
    for row in rows.itertuples():
        p1, p2, negative = (
            itc.vectors(
                model.model.unimodal(model.model.embed_text(encode(model.tokenizer, [text], 50)[1]), "text"), "text"
            )[0]
            for text in row.texts
        )
        expected = [float(p1 @ p2), float(p1 @ negative), float(p2 @ negative)]
        np.testing.assert_allclose(row.text_cosines, expected, atol=1e-5)
        right.append(expected[0] > expected[1] and expected[0] > expected[2])
    assert found["text_to_text"] == np.mean(right) and np.ptp(np.stack(rows["text_cosines"])) > 0.1


def test_what_a_checkpoint_has_no_head_for_is_said_and_has_no_number(work, capsys, tmp_path):
    path = write_checkpoint(
        tmp_path / "model", {"text_encoder": "bert", "image_encoder": "vit"}, ("itm",), max_text_len=20
    )
    folder = probe(capsys, path, "task_probe_sugarcrepe_pp", "exp_name=itm_alone")
    log, found = (folder / "log.txt").read_text(encoding="utf-8"), results(folder)["sugarcrepe_pp"]["probe"]
    assert "note: the checkpoint has no head of itc, so sugarcrepe_pp has no text_to_text" in log
    assert "note: the checkpoint has no head of mlm, so the texts alone have no score" in log
    assert "accuracy_blind" in found and not any("text_to_text" in name or "text_only" in name for name in found)


@torch.no_grad()
def likelihood(model: Loaded, text: str) -> float:
    """Salazar et al.'s score, piece by piece."""
    tokenizer, total = model.tokenizer, 0.0
    _, whole = encode(tokenizer, [text], 50)
    pieces = whole.input_ids[0].tolist()
    for place, piece in enumerate(pieces):
        if piece not in tokenizer.all_special_ids:
            masked = whole.input_ids.clone()
            masked[0, place] = tokenizer.mask_token_id
            hidden = model.model.fuse(model.model.embed_text(whole._replace(input_ids=masked)), None).text
            total += model.heads["mlm"].head(hidden[:, place]).log_softmax(-1)[0, piece].item()
    return total


def test_contrastive_vectors_score_where_asked_for_or_where_nothing_else_does(trained, work, capsys):
    by = [
        frame(probe(capsys, trained, "task_probe_mmvp", f"probe_score={name}", f"exp_name={name}"), "mmvp")
        for name in ("itm", "itc")
    ]
    assert {*by[0]["score_by"]} == {"itm"} and {*by[1]["score_by"]} == {"itc"}
    assert np.abs(np.stack([np.stack(each) for each in by[1]["scores"]])).max() <= 1 + 1e-6


def test_cosines_do_not_say_whether_one_text_is_true(trained, work, capsys):
    folder = probe(capsys, trained, "task_probes", 'datasets=["vsr","mmvp"]', "probe_score=itc", "exp_name=signs")
    found = results(folder)
    assert "mmvp" in found and "vsr" not in found and frame(folder, "vsr")["score"].isna().all()
    assert (
        "vsr asks whether a text is true, which cosines of itc do not say: no number"
        in (folder / "log.txt").read_text()
    )
    words = ("task_probe_vsr", "data_root=probes", "probe_score=itc", f"load_path={trained}")
    said = command(capsys, *words).sentence()
    assert said.endswith("asks whether a text is true, which cosines of itc do not say; leave probe_score=itc out.")
    assert "public labels" not in (folder / "log.txt").read_text()
    true = frame(probe(capsys, trained, "task_probe_vsr", "exp_name=true"), "vsr")
    assert {*true["target"]} == {"true", "false"} and {*true["prediction"]} <= {"true", "false"}


def changed_arrow(place: Path, folder: Path, name: str, column: str, value: object, row: int = 0) -> None:
    """Writes the file of a benchmark anew, with another value in one row."""
    table = pa.ipc.open_file(place / "probes" / f"{name}.arrow").read_all()
    number, values = table.schema.get_field_index(column), table[column].to_pylist()
    values[row] = value
    with pa.ipc.new_file(folder / f"{name}.arrow", table.schema) as writer:
        writer.write_table(
            table.set_column(number, table.schema.field(number), pa.array(values, table.schema.field(number).type))
        )


def test_texts_that_are_cut_are_counted(trained, work, capsys, tmp_path):
    words = ("task_probe_sugarcrepe", f"load_path={trained}", "num_workers=0")
    length = renaissance.load(str(trained)).settings.model.max_text_len
    changed_arrow(work, tmp_path, "sugarcrepe", "texts", ["a " * (length - 1), "a " * (length - 2)])
    ended = command(capsys, *words, f"data_root={tmp_path}", "exp_name=cut")
    assert f"note: 1 of 28 texts are longer than max_text_len={length} tokens, and cut" in ended.out
    assert "max_text_len" not in command(capsys, *words, "data_root=probes", "exp_name=whole").out


def test_a_part_of_a_benchmark_says_which_categories_it_has(trained, work, capsys):
    words = ("task_probe_sugarcrepe", f"load_path={trained}", "data_root=probes", "num_workers=0")
    ended = command(capsys, *words, "eval_limit=3", "exp_name=part")
    assert "note: eval_limit=3: the first 3 of 14 samples; no result of the whole split" in ended.out
    assert "note: the rows that are evaluated are of these categories alone: add_att, add_obj" in ended.out
    assert "alone" not in command(capsys, *words, "eval_limit=14", "exp_name=whole").out


def test_a_row_that_cannot_be_scored_is_refused_before_anything_starts(trained, work, capsys, tmp_path):
    words = (
        "task_probe_sugarcrepe",
        f"load_path={trained}",
        f"data_root={tmp_path}",
        "num_workers=0",
        "eval_batch_size=1",
    )
    words = (*words, f"log_dir={tmp_path / 'runs'}")
    nothing = "sugarcrepe.arrow row 13: a picture has no right text, or no wrong one: nothing can be told; prepare"
    for column, value, sentence in (
        ("correct", [[0, 0]], nothing),
        ("correct", [[1, 1]], nothing),
        ("correct", [[1]], "row 13 has 1 in 'correct'; expected as many values in each entry as in 'texts'"),
        ("correct", [[1, None]], "row 13 has null in 'correct'; expected a number"),
        ("correct", None, "row 13 has 0 in 'correct'; expected 1 entries"),
        (
            "id",
            "add_att_0",
            "sugarcrepe.arrow row 13 has the id 'add_att_0' of an earlier row; prepare the benchmark anew.",
        ),
    ):
        changed_arrow(work, tmp_path, "sugarcrepe", column, value, 13)
        said = command(capsys, *words).sentence()
        assert sentence in said and not (tmp_path / "runs").exists()


def test_an_exported_folder_scores_like_its_checkpoint(trained, work, capsys, tmp_path):
    words = ("task_probes", 'datasets=["winoground","sugarcrepe_pp","aro_relation"]')
    assert main(["export", "with", f"load_path={trained}", f"output={tmp_path / 'exported'}"]) == 0
    before = probe(capsys, trained, *words, "exp_name=before")
    after = probe(capsys, tmp_path / "exported", *words, "exp_name=after")
    assert results(before) == results(after)
    for name in ("winoground", "sugarcrepe_pp", "aro_relation"):
        pd.testing.assert_frame_equal(frame(before, name), frame(after, name))


@torch.no_grad()
def test_an_imported_model_scores_like_its_own_program(work, capsys, tmp_path):
    """A ViLT of transformers with the head of matching that the original has: log-odds of pairs, one by one."""
    rows = small_probes.write("sugarcrepe", tmp_path / "raw")["sugarcrepe"]
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *sorted({w for row in rows for t in row.texts for w in t.split()}),
    ]
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "image_size": 32,
    }
    torch.manual_seed(0)
    vilt = ViltModel(
        ViltConfig(vocab_size=len(vocabulary), patch_size=8, max_position_embeddings=12, max_image_length=-1, **sizes)
    ).eval()
    for parameter in vilt.parameters():
        parameter.normal_(0, 0.3)
    matching, hub = torch.nn.Linear(32, 2), tmp_path / "hub"
    vilt.save_pretrained(hub)
    head = {f"itm_score.fc.{name}": tensor.detach() for name, tensor in matching.named_parameters()}
    save_file(load_file(hub / "model.safetensors") | head, hub / "model.safetensors", {"format": "pt"})
    small_probes.save(
        hub / "preprocessor_config.json", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "crop_size": 32}
    )
    small_probes.save(hub / "vocab.txt", "\n".join(vocabulary))
    BertTokenizerFast(str(hub / "vocab.txt")).save_pretrained(hub)
    words = (f"source={hub}", f"output={tmp_path / 'vilt.ckpt'}", "allow_download=False", f"tokenizer={hub}")
    assert main(["import", "with", *words]) == 0
    found = frame(probe(capsys, tmp_path / "vilt.ckpt", "task_probe_sugarcrepe", "exp_name=vilt"), "sugarcrepe")
    for row in rows:
        pixels = (torch.tensor(row.colours[0]).view(1, 3, 1, 1) / 255 - 0.5).expand(1, 3, 32, 32) / 0.5
        expected = []
        for text in row.texts:
            ids = torch.tensor([[2, *map(vocabulary.index, text.split()), 3]])
            mismatched, matched = matching(vilt(input_ids=ids, pixel_values=pixels).pooler_output)[0]
            expected.append(float(matched - mismatched))
        np.testing.assert_allclose(found.loc[row.id, "scores"][0], expected, atol=1e-4)
    assert np.std(np.stack(found["scores"].map(lambda each: each[0]))) > 0.1


@pytest.mark.slow
def test_two_processes_give_the_same_numbers(trained, work, run_cli):
    words = ("with", "task_probes", 'datasets=["winoground","whatsup_a","sugarcrepe_pp"]', f"load_path={trained}",
             f"data_root={work / 'probes'}", "accelerator=cpu", "num_workers=0", "eval_batch_size=3")  # fmt: skip
    found = []
    for processes in (1, 2):
        done = run_cli(*words, f"num_gpus={processes}", f"log_dir={work / 'processes'}", f"exp_name=of_{processes}")
        assert done.code == 0, done.stderr
        found.append(results(work / "processes" / f"of_{processes}" / "version_0"))
    assert found[0] == found[1]


def test_what_cannot_be_scored_is_one_sentence(trained, work, capsys):
    words = ("task_probe_winoground", "data_root=probes", "num_workers=0")
    plain = train(capsys, "task_mlm", *SMALL, "max_steps=1", "batch_size=8", "final_test=False", "exp_name=words")
    said = command(capsys, *words, f"load_path={plain}/checkpoints/last.ckpt").sentence()
    assert "has no trained head of itm or itc" in said
    assert main(["check", "with", *words, f"load_path={plain}/checkpoints/last.ckpt"]) == 1  # without data, too
    assert capsys.readouterr().err == f"error: {said}\n"
    assert "test_only=True needs load_path" in command(capsys, *words).sentence()
    assert (
        "probe trains no part of the model, so test_only=False has nothing to do"
        in command(capsys, *words, f"load_path={trained}", "test_only=False").sentence()
    )
    (work / "empty").mkdir(exist_ok=True)
    said = command(capsys, *words[:1], f"load_path={trained}", "data_root=empty").sentence()
    assert said.startswith(
        "data_root='empty' has no file of winoground; `python run.py prepare with dataset=winoground"
    )
