"""Lengths of texts: the estimate, real word pieces, quantiles."""

from __future__ import annotations

import re
from pathlib import Path

import arrow_files
import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from renaissance.data.check.lengths import Lengths, words


def test_words_and_marks_are_counted():
    texts = ["", "a dog", "It's 3.5 m!", "Ein Hund läuft\nüber 草地", "snake_case", "a\u0301 b", "(a)–(b)"]
    assert words(pa.array(texts)).tolist() == [2, 4, 10, 7, 3, 4, 9]


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\v"))))  # RE2 takes it for a mark
def test_words_of_ascii(texts: list[str]):
    wanted = [len(re.findall(r"\w+|[^\w\s]", text, re.ASCII)) + 2 for text in texts]
    assert words(pa.array(texts, pa.string())).tolist() == wanted


def test_quantiles_are_those_of_all_texts():
    lengths = Lengths(np.asarray)
    drawn = np.random.default_rng(0).integers(3, 90, 1000)
    for part in np.array_split(drawn, 7):
        lengths.add(part)
    lengths.add(np.empty(0, np.int64))
    wanted = np.quantile(drawn, (0.5, 0.9, 0.99), method="inverted_cdf")
    share = f"{(drawn > 50).mean():.2%}"
    assert lengths.row(50) == ("1,000", *(f"{each:.0f}" for each in wanted), str(drawn.max()), share)
    assert lengths.row(200)[-1] == "0.00%"


def test_word_pieces_of_a_tokenizer(run_cli, hub_cache, tmp_path: Path):
    from transformers import AutoTokenizer

    columns = arrow_files.files_of("captions")["captions_train.arrow"]
    columns["caption"][0] = ["An extraordinarily unpronounceable tokenization!"] * 8
    (tmp_path / "arrow").mkdir()
    arrow_files.write_columns(tmp_path / "arrow" / "captions_train.arrow", columns)
    name = "google-bert/bert-base-uncased"
    done = run_cli("check_data", "with", "data_root=arrow", f"tokenizer={name}", "max_text_len=12", "workers=2")
    assert done.code == 0, done.stderr
    tokenizer = AutoTokenizer.from_pretrained(name)
    texts = [text for captions in columns["caption"] for text in captions]
    drawn = [len(tokenizer(text)["input_ids"]) for text in texts]
    quantiles = [f"{each:.0f}" for each in np.quantile(drawn, (0.5, 0.9, 0.99), method="inverted_cdf")]
    [line] = [line.split() for line in done.stdout.splitlines() if line.startswith("  captions ")]
    longer = sum(length > 12 for length in drawn) / len(drawn)
    assert line[1:] == [str(len(drawn)), *quantiles, str(max(drawn)), f"{longer:.2%}"]
    assert f"word pieces of {name}" in done.stdout and "parallelism" not in done.stderr
