"""The cache that the tests stand on is one that the Hub client itself reads, offline, in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

import hub
from conftest import ROOT

OFFLINE = ROOT / "tests" / "offline"

READ_ALL = """
import json, sys, torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer
found = {}
for repo_id, is_text, has_weights in json.loads(sys.argv[1]):
    config = AutoConfig.from_pretrained(repo_id)
    with torch.device("cpu" if has_weights else "meta"):
        model = AutoModel.from_pretrained(repo_id) if has_weights else AutoModel.from_config(config)
    processor = (AutoTokenizer if is_text else AutoImageProcessor).from_pretrained(repo_id)
    facts = {"type": config.model_type, "parameters": sum(p.numel() for p in model.parameters())}
    facts |= {"pieces": processor("A red-and-blue square.").input_ids} if is_text else {"mean": processor.image_mean}
    found[repo_id] = facts
print(json.dumps(found))
"""


def read_all(home, has_weights: bool) -> dict:
    wanted = [(repo_id, entry.processor is None, has_weights) for repo_id, entry in hub.REPOSITORIES.items()]
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, json.dumps(wanted)],
        env=os.environ | {"HF_HOME": str(home), "PYTHONPATH": str(OFFLINE)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_small_checkpoints_load_offline(hub_cache):
    found = read_all(hub_cache, has_weights=True)
    assert all(facts["parameters"] < 2_000_000 for facts in found.values())
    # "a red - and - blue square ." between [CLS] and [SEP], by bert-base-uncased's vocabulary
    expected = [101, 1037, 2417, 1011, 1998, 1011, 2630, 2675, 1012, 102]
    assert found["google/electra-small-discriminator"] == {
        "type": "electra",
        "parameters": found["google/electra-small-discriminator"]["parameters"],
        "pieces": expected,
    }
    assert found["facebook/deit-tiny-patch16-224"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert found["google/vit-base-patch16-224"]["mean"] == [0.5, 0.5, 0.5]


def test_full_size_dimensions_are_the_published_ones(full_size_home):
    found = read_all(full_size_home, has_weights=False)
    published = {  # millions, as the models' papers count them (bodies only)
        "facebook/dino-vits16": 21.8,
        "facebook/deit-tiny-patch16-224": 5.6,
        "google/vit-base-patch16-224": 86.4,
        "google/electra-small-discriminator": 13.5,
        "google/electra-base-discriminator": 108.9,
        "google-bert/bert-base-uncased": 109.5,
    }
    assert {name: round(facts["parameters"] / 1e6, 1) for name, facts in found.items()} == published


def test_cache_of_this_process(hub_cache, full_size_home, monkeypatch):
    from huggingface_hub import constants
    from transformers import AutoConfig

    assert AutoConfig.from_pretrained("facebook/dino-vits16").hidden_size == hub.SMALL["hidden_size"]
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(full_size_home / "hub"))
    assert AutoConfig.from_pretrained("facebook/dino-vits16").hidden_size == 384
