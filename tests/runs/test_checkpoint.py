"""Checkpoint files: written whole or not at all, read without running code, and what of one fits another model."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
import torch
from torch import nn

from renaissance.core.errors import UserError
from renaissance.runs.checkpoint import load_state_dicts, read, save
from renaissance.runs.stored import Stored
from renaissance.settings.declared import defaults
from renaissance.settings.keys import marked

SETTINGS = defaults() | {
    "seed": 3,
    "datasets": ["coco"],
    "model_type": "one-tower",
    "encoder": "a/bert",
    "pooler_type": "single",
    "tokenizer": "a/bert",
    "vocab_size": 10,
    "max_text_len": 8,
    "image_size": 32,
    "precision": "32-true",
}


def stored(value: float = 1.0, **model: torch.Tensor) -> Stored:
    return Stored(
        settings=SETTINGS,
        towers={"encoder": {"model_type": "bert", "hidden_size": 4}},
        tokenizer={"tokenizer.json": "{}"},
        image={"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        labels={},
        model=model or {"tower.weight": torch.full((2, 3), value)},
        heads={"mlm.bias": torch.arange(3.0)},
        training={
            "step": 7,
            "optimizer": {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"params": [0], "lr": 0.1}]},
            "best": 0.25,
        },
    )


def test_what_is_saved_is_read(tmp_path):
    path = tmp_path / "last.ckpt"
    save(path, stored(2.0))
    found, expected = read(path), stored(2.0)
    kept = {key: value for key, value in SETTINGS.items() if key not in marked("command_only")}
    assert found.settings == kept  # the others are of the command that wrote it
    for name in ("towers", "tokenizer", "image", "labels"):
        assert getattr(found, name) == getattr(expected, name)
    assert torch.equal(found.model["tower.weight"], torch.full((2, 3), 2.0))
    assert torch.equal(found.heads["mlm.bias"], torch.arange(3.0))
    assert found.training["step"] == 7 and found.training["best"] == 0.25
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_keeps_the_old_file(tmp_path):
    """The limit is met in the middle of torch's own writer, which makes an error of its own of ours."""
    path = tmp_path / "last.ckpt"
    save(path, stored(1.0))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 21, limits[1]))
    try:
        with pytest.raises(UserError, match=r"no room left for \S*last\.ckpt' .*give another log_dir\.$"):
            save(path, stored(weight=torch.zeros(1 << 20)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.equal(read(path).model["tower.weight"], torch.full((2, 3), 1.0))


class Malicious:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_a_file_that_would_run_code_is_refused_unexecuted(tmp_path):
    path, trace = tmp_path / "evil.ckpt", tmp_path / "executed"
    torch.save({"format": 1, **stored()._asdict(), "labels": Malicious(trace)}, path)
    with pytest.raises(UserError, match=r"resume_from=\S*evil\.ckpt cannot be read as a checkpoint"):
        read(path, "resume_from")
    assert not trace.exists()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


UNREADABLE = {
    "absent": (Path.unlink, r"load_path=\S*last\.ckpt is not a file \(there: \S*other\.ckpt\)"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "is a folder without config.json"),
    "cut short": (_cut, "cannot be read as a checkpoint .*cut short"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as a checkpoint"),
    "text": (lambda path: path.write_text("weights"), "cannot be read as a checkpoint"),
    "another program's": (lambda path: torch.save({"state_dict": {}}, path), "is a checkpoint of another program"),
    "a bare tensor": (lambda path: torch.save(torch.zeros(2), path), "is not a checkpoint of this program"),
    "of a later version": (lambda path: torch.save({"format": 2}, path), "has format 2; this version reads format 1"),
    "incomplete": (
        lambda path: torch.save({"format": 1, "settings": {}}, path),
        "towers is None, but has to be an object",
    ),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_an_unusable_file_is_one_sentence(tmp_path, what):
    save(tmp_path / "other.ckpt", stored())
    path = tmp_path / "last.ckpt"
    save(path, stored())
    spoil, sentence = UNREADABLE[what]
    spoil(path)
    with pytest.raises(UserError, match=sentence) as refusal:
        read(path)
    assert "\n" not in str(refusal.value)


class Model(nn.Module):
    """A tower with a table of positions that can be brought to another length, and the parts that any model has."""

    def __init__(self, positions: int = 6, width: int = 4):
        super().__init__()
        self.tower = nn.ModuleDict({"positions": nn.Embedding(positions, width), "layer": nn.Linear(width, width)})
        self.token_types = nn.Embedding(3, width)

    def adapt(self, name: str, tensor: torch.Tensor) -> torch.Tensor | None:
        own = self.get_parameter(name).shape
        return tensor[: own[0]] if "positions" in name and own[1] == tensor.shape[1] else None


def test_the_report_names_what_became_of_every_tensor():
    torch.manual_seed(0)
    source, target = Model(positions=9), Model(positions=6)
    heads = nn.ModuleDict({"mlm": nn.Linear(4, 3), "itm": nn.Linear(4, 2)})
    old = {name: tensor.clone() for name, tensor in heads.state_dict().items()}
    state = source.state_dict()
    del state["tower.layer.bias"]
    given = stored(**state, **{"tower.gone": torch.zeros(2)})
    given = given._replace(heads={"mlm.weight": torch.ones(3, 4), "mlm.bias": torch.ones(5)})

    report = load_state_dicts(target, heads, given, "first.ckpt")

    assert sorted(report.loaded) == ["mlm.weight", "token_types.weight", "tower.layer.weight", "tower.positions.weight"]
    assert report.resized == ["tower.positions.weight"]
    assert sorted(report.unexpected) == ["mlm.bias", "tower.gone"]  # of another shape; not in the model
    assert sorted(report.missing) == ["itm.bias", "itm.weight", "mlm.bias", "tower.layer.bias"]
    assert torch.equal(target.tower["positions"].weight, source.tower["positions"].weight[:6])
    assert torch.equal(target.tower["layer"].weight, source.tower["layer"].weight)
    assert torch.equal(heads["mlm"].weight, torch.ones(3, 4))
    assert all(torch.equal(heads.state_dict()[name], old[name]) for name in ("mlm.bias", "itm.weight", "itm.bias"))
    lines = str(report).splitlines()
    assert lines[0] == "loaded 4 tensors from first.ckpt"
    assert lines[1].startswith("  new, random weights: 4 (") and lines[2].startswith("  not used: 2 (")
    assert lines[3] == "  resized: 1 (tower.positions.weight)"


def test_a_checkpoint_of_which_no_tower_fits_is_refused():
    # The token types, which every model of this width has, are no tower.
    other = stored(**{"token_types.weight": torch.zeros(3, 4), "encoder.weight": torch.zeros(4, 4)})
    with pytest.raises(UserError, match=r"load_path=other\.ckpt holds another model: none of its 2 tensors fits"):
        load_state_dicts(Model(), nn.ModuleDict(), other, "other.ckpt")
