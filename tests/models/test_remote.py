"""Encoders that bring code: never run unasked, by no checkpoint, at one commit only; and pinned revisions of any model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from families import small_config

import hub
import small_run
from renaissance.core.errors import UserError
from renaissance.core.types import TextInput
from renaissance.inference.loaded import Loaded
from renaissance.models import backbones
from renaissance.models.backbones import remote
from renaissance.runs import checkpoint
from small_run import FUSION, SMALL, command, train

CONFIGURATION = """
from transformers import PreTrainedConfig

class StrangeConfig(PreTrainedConfig):
    model_type = "strange"

    def __init__(self, vocab_size=30522, hidden_size=16, max_position_embeddings=64, **rest):
        self.vocab_size, self.hidden_size, self.max_position_embeddings = vocab_size, hidden_size, max_position_embeddings
        super().__init__(**rest)
"""
MODEL = """
from pathlib import Path
Path({ran!r}).write_text("the code has run")

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from .configuration_strange import StrangeConfig

class StrangeModel(PreTrainedModel):
    config_class = StrangeConfig

    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.mix = nn.Linear(config.hidden_size, config.hidden_size)
        self.post_init()

    def forward(self, input_ids, attention_mask=None):
        hidden = self.words(input_ids) * attention_mask[..., None]
        return BaseModelOutput(last_hidden_state=self.mix(hidden + hidden.mean(1, keepdim=True)))

    def get_input_embeddings(self):
        return self.words
"""
AUTO_MAP = {"AutoConfig": "configuration_strange.StrangeConfig", "AutoModel": "modeling_strange.StrangeModel"}


class Strange:
    """A repository in the cache whose model is of code of its own. Attributes: name; commit; ran, a file that its code writes."""

    def __init__(self, home: Path, scratch: Path, name: str):
        from safetensors.torch import save_file

        self.name, self.ran, folder = name, scratch / "ran", scratch / "strange"
        folder.mkdir()
        (folder / "configuration_strange.py").write_text(CONFIGURATION)
        (folder / "modeling_strange.py").write_text(MODEL.format(ran=str(self.ran)))
        (folder / "config.json").write_text(
            json.dumps({"model_type": "strange", "auto_map": AUTO_MAP, "hidden_size": 16, "vocab_size": 30522})
        )
        generator = torch.Generator().manual_seed(0)
        shapes = {"words.weight": (30522, 16), "mix.weight": (16, 16), "mix.bias": (16,)}
        state = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        hub.write_wordpiece_tokenizer(folder)
        self.folder, self.commit = folder, hub.add_to_cache(home, name, folder).name

    @property
    def pinned(self) -> str:
        return f"{self.name}@{self.commit}"


@pytest.fixture
def strange(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Strange:
    monkeypatch.setattr(remote, "_trusted", {})
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return Strange(hub_cache, scratch, f"someone/strange-{abs(hash(request.node.name)) % 10**8}")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    small_run.write_coco_vg(tmp_path / "data" / "arrow")
    return tmp_path


def words(encoder: str) -> list[str]:
    small = [word for word in SMALL if not word.startswith("text_encoder")]
    return [
        "task_mlm_itm",
        *small,
        f"text_encoder={encoder}",
        "max_steps=1",
        "val_check_interval=1",
        "final_test=False",
    ]


def test_code_is_not_run_unasked(strange: Strange, work: Path, capsys):
    for name in (strange.name, strange.pinned, str(strange.folder)):
        sentence = command(capsys, *words(name)).sentence()
        assert "brings code of its own, which is not run unless you say so" in sentence, sentence
        assert "trust_remote_code=True" in sentence and not strange.ran.exists()


@pytest.mark.parametrize("revision", ["", "@main", "@abc123"])
def test_code_is_run_at_a_commit_only(revision: str, strange: Strange, work: Path, capsys):
    sentence = command(capsys, *words(strange.name + revision), "trust_remote_code=True").sentence()
    if revision != "@abc123":
        assert f"runs at one commit only: give it as {strange.name}@<the 40 hexadecimal digits" in sentence
    assert not strange.ran.exists()


def test_code_of_another_repository_is_refused(strange: Strange):
    values = {"auto_map": {"AutoModel": "other/repo--modeling.Model"}}
    with pytest.raises(UserError, match=r"lies in another repository \(other/repo\), whose commit nothing pins"):
        remote.trusted_config(strange.pinned, values, "text", allow_download=False)
    assert not strange.ran.exists()


def test_trusted_code_trains_and_its_checkpoint_asks_for_trust_again(strange: Strange, work: Path, capsys, monkeypatch):
    run = train(capsys, *words(strange.pinned), "trust_remote_code=True")
    assert strange.ran.exists()
    best = run / "checkpoints" / "best.ckpt"
    stored = checkpoint.read(best)
    assert stored.towers["text_encoder"]["remote_code"] == strange.pinned
    assert "trust_remote_code" not in stored.settings  # nobody would believe it

    strange.ran.unlink()
    monkeypatch.setattr(remote, "_trusted", {})
    evaluation = ("task_mlm_itm", "test_only=True", f"load_path={best}", "num_workers=0")
    for refused in (
        command(capsys, *evaluation).sentence(),
        command(capsys, f"resume_from={best}", "max_steps=2").sentence(),
        command(capsys, *evaluation[:1], f"load_path={best}", "max_steps=1").sentence(),
    ):
        assert f"holds a model of the code of {strange.pinned}, which is not run unless you say so" in refused
    with pytest.raises(UserError, match="which is not run unless you say so"):
        Loaded(best)
    assert not strange.ran.exists()
    evaluated = train(capsys, *evaluation, "trust_remote_code=True")
    assert small_run.results(evaluated)["val"]["mlm"]["loss"] == pytest.approx(
        small_run.curve(run, "mlm/val/loss")[-1], abs=1e-5
    )
    assert Loaded(best, trust_remote_code=True).fill(None, "a [MASK] circle", 1)


def test_a_local_folder_of_code_is_trusted_as_it_is(strange: Strange, work: Path, capsys):
    train(capsys, *words(str(strange.folder)), "trust_remote_code=True")


def test_code_has_no_blocks_for_a_one_tower(strange: Strange, work: Path, capsys):
    small = [word for word in SMALL if word not in FUSION and "_encoder=" not in word]
    one = ("task_mlm", *small, f"encoder={strange.pinned}", "trust_remote_code=True", "max_steps=1")
    assert "cannot be a one-tower encoder: it brings code of its own" in command(capsys, *one).sentence()


def test_a_revision_pins_any_model(hub_cache: Path, tmp_path: Path):
    text = TextInput(torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 3, dtype=torch.long))
    commits, outputs = [], []
    for seed in (0, 1):
        torch.manual_seed(seed)
        transformers.BertModel(small_config("bert")).save_pretrained(tmp_path / "bert")
        commits.append(hub.add_to_cache(hub_cache, "someone/two-commits", tmp_path / "bert").name)
        name = f"someone/two-commits@{commits[-1]}"
        tower = backbones.build_text_tower(backbones.read_config(name), weights=name).eval()
        outputs.append(tower(text).hidden)
    for name, expected in (
        (f"someone/two-commits@{commits[0]}", outputs[0]),
        ("someone/two-commits", outputs[1]),
        ("someone/two-commits@main", outputs[1]),
    ):
        tower = backbones.build_text_tower(backbones.read_config(name), weights=name).eval()
        assert torch.equal(tower(text).hidden, expected)
    assert not torch.equal(*outputs)
    with pytest.raises(UserError):
        backbones.read_config("someone/two-commits@" + "0" * 40)


def test_a_checkpoints_tokenizer_runs_no_code(hub_cache: Path, work: Path, capsys, monkeypatch):
    """transformers would ask at the terminal whether to run it."""
    run = train(capsys, *words("google/electra-small-discriminator"))
    sound, ran = checkpoint.read(run / "checkpoints" / "best.ckpt"), work / "ran"
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    code = f"open({str(ran)!r}, 'w')\nfrom transformers import BertTokenizerFast\nclass Evil(BertTokenizerFast): pass\n"
    named = json.dumps({"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": [None, "evil.Evil"]}})
    for files, sentence in (
        ({"evil.py": code, "tokenizer_config.json": named}, "brings 'evil.py', which is no file of a tokenizer"),
        ({"../evil.py": code}, "brings 'evil.py', which is no file of a tokenizer"),
    ):
        checkpoint.save(work / "hostile.ckpt", sound._replace(tokenizer=sound.tokenizer | files))
        with pytest.raises(UserError, match=sentence):
            Loaded(work / "hostile.ckpt")
        assert sentence in command(capsys, "task_mlm", "load_path=hostile.ckpt", "max_steps=1").sentence()
    (work / "evil.py").write_text(code)  # where Python might look for it
    checkpoint.save(work / "hostile.ckpt", sound._replace(tokenizer=sound.tokenizer | {"tokenizer_config.json": named}))
    command(capsys, "task_mlm", "load_path=hostile.ckpt", "max_steps=1")
    assert not ran.exists()


def test_a_folder_does_not_stand_in_for_a_commit(strange: Strange, work: Path, capsys):
    shadow = work / strange.name
    shutil.copytree(strange.folder, shadow)
    sentence = command(capsys, *words(strange.pinned), "trust_remote_code=True").sentence()
    assert f"{strange.name} is a folder here, which has no revisions" in sentence and not strange.ran.exists()


def test_a_tokenizer_of_code_is_never_run(strange: Strange, hub_cache: Path, work: Path, capsys):
    """Nor does what is not imported have to be pinned."""
    auto_map = AUTO_MAP | {"AutoTokenizer": ["other/repo--modeling_strange.Strange", None]}
    config = json.loads((strange.folder / "config.json").read_text()) | {"auto_map": auto_map}
    (strange.folder / "config.json").write_text(json.dumps(config))
    settings = json.loads((strange.folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Strange", "auto_map": {"AutoTokenizer": ["modeling_strange.Strange", None]}}
    (strange.folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for name in ("tokenizer.json", "vocab.txt"):
        (strange.folder / name).unlink()
    pinned = f"{strange.name}@{hub.add_to_cache(hub_cache, strange.name, strange.folder).name}"
    said = command(capsys, *words(pinned), "trust_remote_code=True").sentence()
    assert "a tokenizer of code of its own, which is never run: give tokenizer=" in said
    ok = train(capsys, *words(pinned), "trust_remote_code=True", "tokenizer=google-bert/bert-base-uncased")
    assert (ok / "checkpoints" / "best.ckpt").exists()
