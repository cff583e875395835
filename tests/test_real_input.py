"""Real weights and real captions: MiniLM as the text tower, what people wrote about the NLVR images as own captions.

The true sentences of the corpus are captions of their images; validation has sentences of its own. What is learned in
these few steps is language: the MLM loss has to end below the unigram entropy of the captions, the least loss of a
model that does not read the context. The sentences with their labels are also an entailment task, in the raw layout of
SNLI-VE: it has to run to the end, with every number that belongs beside its own.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from renaissance.data.dataset_specs import SNLI_LABELS
from renaissance.data.prepare import snli
from renaissance.data.prepare.captions import make_arrow
from small_run import curve, results, rows

STEPS = 100
VAL_EVERY = 6  # each so many-th sentence is of validation


def true_sentences(folder: Path) -> list[tuple[str, str]]:
    """(image's path below the folder, sentence) of every example whose sentence is true of its image."""
    found = []
    for line in (folder / "dev.json").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["label"] == "true":
            found.append((f"images/{entry['directory']}/dev-{entry['identifier']}-0.png", entry["sentence"]))
    return found


def write_captions(folder: Path, root: Path, data_root: Path) -> list[str]:
    """Writes the true sentences as own captions; returns them."""
    pairs = true_sentences(folder)
    numbers = {sentence: number for number, sentence in enumerate(dict.fromkeys(text for _, text in pairs))}
    root.mkdir()
    (root / "images").symlink_to(folder / "images", target_is_directory=True)
    lines = [
        {"path": path, "caption": text, "split": "val" if numbers[text] % VAL_EVERY == 0 else "train"}
        for path, text in pairs
    ]
    (root / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    make_arrow(root, data_root, name="nlvr", workers=1)
    return [text for _, text in pairs]


def unigram_entropy(texts: list[str], tokenizer: Tokenizer) -> float:
    """Entropy of the texts' word pieces in nats."""
    counts = Counter(piece for text in texts for piece in tokenizer.encode(text, add_special_tokens=False).ids)
    total = sum(counts.values())
    return -sum(count / total * math.log(count / total) for count in counts.values())


@pytest.mark.slow
def test_real_weights_learn_from_real_captions(run_cli, hub_cache, minilm_folder, nlvr1_dev, tmp_path):
    texts = write_captions(nlvr1_dev, tmp_path / "raw", tmp_path / "data")
    assert len(texts) == 547
    tokenizer = Tokenizer.from_file(str(minilm_folder / "tokenizer.json"))
    tokenizer.no_padding()
    entropy = unigram_entropy(texts, tokenizer)

    words = f"""with task_mlm_itm text_encoder={minilm_folder} image_encoder=facebook/deit-tiny-patch16-224
        random_init_vision_encoder=True image_size=64 cross_layer_hidden_size=128 num_cross_layers=2 batch_size=16
        learning_rate=2e-4 data_root=data datasets=["nlvr"] log_every_n_steps=10 num_workers=1
        max_steps={STEPS} val_check_interval={STEPS // 2} gradient_clip_val=1.0"""
    done = run_cli(*words.split(), timeout=1800)
    assert done.code == 0, done.stderr
    run = tmp_path / "result" / "mlm_itm" / "version_0"
    found = results(run)["val"]
    print(
        f"\nunigram entropy {entropy:.3f} nats; val MLM loss {curve(run, 'mlm/val/loss')}, "
        f"best {found['mlm']}; ITM {found['itm']}"
    )
    assert found["mlm"]["loss"] < entropy
    assert curve(run, "mlm/val/loss")[-1] < entropy
    assert results(run).keys() == {"val"}
    assert 0 < found["itm"]["loss"] < 2 and 0 <= found["itm"]["accuracy"] <= 1

    # results.json is what the best checkpoint gives when it is evaluated by itself.
    path = run / "checkpoints" / "best.ckpt"
    evaluated = run_cli(
        "with", "task_mlm_itm", f"load_path={path}", "test_only=True", "data_root=data", 'datasets=["nlvr"]'
    )
    assert evaluated.code == 0, evaluated.stderr
    alone = results(run.with_name("version_1"))["val"]
    for task, metrics in found.items():
        assert alone[task] == pytest.approx(metrics, abs=1e-5)

    resumed = run_cli("with", f"resume_from={run}/checkpoints/last.ckpt", f"max_steps={STEPS + 4}")
    assert resumed.code == 0, resumed.stderr
    assert rows(run)[-1]["step"] == str(STEPS + 4)
    assert curve(run, "mlm/val/loss")[-1] < entropy


def write_entailment(folder: Path, root: Path) -> dict[str, list[str]]:
    """Writes the corpus as SNLI-VE lies on disk, a sentence in one split only; returns the gold labels by split."""
    pictures = root / "Flickr30K" / "images"
    pictures.mkdir(parents=True)
    splits: dict[str, list[dict[str, str]]] = {"train": [], "dev": [], "test": []}
    numbers: dict[str, int] = {}
    for line in (folder / "dev.json").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        number = numbers.setdefault(entry["sentence"], len(numbers))
        name = entry["identifier"]
        source = folder / "images" / entry["directory"] / f"dev-{name}-0.png"
        (pictures / f"{name}.jpg").symlink_to(source)  # a name that lies about its format, as real ones do
        label = {"false": "contradiction", "true": "entailment"}[entry["label"]]
        made = {"Flickr30K_ID": name, "pairID": f"{name}#0", "gold_label": label, "sentence2": entry["sentence"]}
        split = {0: "dev", 3: "test"}.get(number % VAL_EVERY, "train")
        splits[split].append(made | {"sentence1": "an image of shapes"})
    for split, lines in splits.items():
        (root / f"snli_ve_{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {split: [line["gold_label"] for line in lines] for split, lines in splits.items()}


@pytest.mark.slow
def test_real_sentences_are_an_entailment_task(run_cli, hub_cache, minilm_folder, nlvr1_dev, tmp_path):
    labels = write_entailment(nlvr1_dev, tmp_path / "raw")
    assert sum(map(len, labels.values())) == 989
    snli.make_arrow(tmp_path / "raw", tmp_path / "data", workers=1)
    words = f"""with task_finetune_snli text_encoder={minilm_folder} image_encoder=facebook/deit-tiny-patch16-224
        random_init_vision_encoder=True image_size=64 cross_layer_hidden_size=128 num_cross_layers=2 batch_size=16
        learning_rate=1e-4 data_root=data num_workers=1 max_steps={STEPS // 2} val_check_interval={STEPS // 2}"""
    blind = run_cli(*words.split(), "blind=True", "exp_name=blind", timeout=1800)
    assert blind.code == 0, blind.stderr
    done = run_cli(*words.split(), "blind_run=result/blind/version_0", timeout=1800)
    assert done.code == 0, done.stderr
    run = tmp_path / "result" / "finetune_snli" / "version_0"
    found = results(run)
    assert found.keys() == {"val", "test"}
    for split, name in (("val", "dev"), ("test", "test")):
        values, gold = found[split]["snli"], Counter(labels[name])
        assert values["accuracy"] * sum(gold.values()) == pytest.approx(
            values["contradiction_as_contradiction"] + values["entailment_as_entailment"]
        )
        assert sum(values[f"entailment_as_{each}"] for each in SNLI_LABELS) == gold["entailment"]
        majority = f"{max(gold.values()) / sum(gold.values()):.4f}"
        assert f"snli, {split}: {sum(gold.values())} examples of snli_{name}.arrow" in done.stdout
        assert majority in done.stdout and "blind run" in done.stdout and "95 % interval" in done.stdout
    print("\n".join(line for line in done.stdout.splitlines() if not line.startswith("step")))
