"""What a name can be: a folder, an id in the cache, or a mistake; configurations, weights, images and tokenizers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from families import small_config
from huggingface_hub import errors
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from renaissance.core.errors import UserError
from renaissance.core.types import TextInput
from renaissance.models import backbones
from renaissance.models.backbones import hub as backbones_hub

WORDS = ["<s>", "</s>", "<unk>", "a", "red", "circle", "left", "of", "blue", "square"]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A folder with a small BERT for masked language modelling, whose weights bring a head that a tower leaves out."""
    torch.manual_seed(0)
    transformers.BertForMaskedLM(small_config("bert")).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    """A folder with a fast tokenizer that has neither a mask nor a padding token, as GPT-2's."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", padding_side="left"
    )
    fast.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_left_out_heads_are_named_and_weights_are_fp32(bert: Path) -> None:
    config = backbones.read_config(str(bert))
    tower = backbones.build_text_tower(config, weights=str(bert))
    assert [name for name in tower.unused if not name.startswith("cls.predictions.")] == [] and tower.unused
    assert {parameter.dtype for parameter in tower.parameters()} == {torch.float32}


def test_bin_weights_load_like_safetensors_but_no_pickled_code(bert: Path) -> None:
    name, config = str(bert), backbones.read_config(str(bert))
    expected = backbones.build_text_tower(config, weights=name).state_dict()
    state = transformers.BertForMaskedLM.from_pretrained(name).state_dict()
    (bert / "model.safetensors").unlink()
    torch.save(state, bert / "pytorch_model.bin")
    loaded = backbones.build_text_tower(config, weights=name).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in expected.items())
    torch.save(state | {"code": Path("x")}, bert / "pytorch_model.bin")
    with pytest.raises(UserError, match="hold more than tensors, which could run code: not read"):
        backbones.build_text_tower(config, weights=name)


def test_weights_of_another_model_are_refused(bert: Path, tmp_path: Path) -> None:
    config = backbones.read_config(str(bert))
    transformers.ElectraModel(small_config("electra")).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="they are not weights of this model"):
        backbones.build_text_tower(config, weights=str(tmp_path / "other"))
    (bert / "model.safetensors").write_bytes((bert / "model.safetensors").read_bytes()[:2000])
    with pytest.raises(UserError, match="is cut short or damaged"):
        backbones.build_text_tower(config, weights=str(bert))


def test_a_folder_without_a_configuration_names_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(UserError, match=r"does not hold a readable Hugging Face model \(found: notes.txt\)"):
        backbones.read_config(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nosuchmodel"}))
    with pytest.raises(UserError, match="nosuchmodel"):
        backbones.read_config(str(tmp_path))


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    values = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.MyConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "mine.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UserError):
        backbones.read_config(str(tmp_path))


def test_an_id_that_is_not_in_the_cache() -> None:
    with pytest.raises(UserError, match="^no-such/model is neither a local folder nor in the Hugging Face cache"):
        backbones.read_config("no-such/model", allow_download=False)
    with pytest.raises(UserError, match="neither a folder that exists nor a Hugging Face id"):
        backbones.read_config("../no/such/folder")


@pytest.mark.parametrize(
    ("cause", "sentence"),
    [
        (errors.LocalEntryNotFoundError("x"), "and the Hub cannot be reached: download it once"),
        (errors.RepositoryNotFoundError, "nor a model on the Hugging Face Hub: check its spelling"),
        (errors.GatedRepoError, "asks for an agreement"),
    ],
)
def test_what_the_hub_answers_becomes_a_sentence(
    cause: BaseException | type, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbones_hub.constants, "HF_HUB_OFFLINE", False)
    raised = cause if isinstance(cause, BaseException) else cause.__new__(cause)
    with pytest.raises(UserError, match=sentence), backbones_hub.explain_errors("some/model", allow_download=True):
        raise OSError("transformers' own words") from raised


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1], "size": 224}, ([0.1, 0.2, 0.3], 224)),
        (
            {"image_mean": 0.5, "image_std": 0.5, "size": {"shortest_edge": 256}, "crop_size": {"height": 224}},
            ([0.5, 0.5, 0.5], 224),
        ),
        ({"do_normalize": False, "size": {"height": 384, "width": 384}}, ([0.0, 0.0, 0.0], 384)),
        ({"image_processor": {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}}, ([0.0, 0.0, 0.0], None)),
        ({"size": 224}, None),
    ],
)
def test_how_a_model_wants_its_pictures(written: dict, read: tuple | None, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    found = backbones.read_image_processor(str(tmp_path))
    assert found is None if read is None else (found["mean"], found["size"]) == read


def test_no_file_says_how_a_model_wants_its_pictures(tmp_path: Path) -> None:
    assert backbones.read_image_processor(str(tmp_path)) is None


def test_a_tokenizer_without_mask_and_padding_gets_both_and_the_tower_follows(
    bert: Path, tokenizer_folder: Path
) -> None:
    tokenizer, report = backbones.load_tokenizer(str(tokenizer_folder))
    assert [line.split(" had no ")[1] for line in report] == [
        "pad_token: [PAD] was added, piece 11",
        "mask_token: [MASK] was added, piece 10",
    ]
    batch = tokenizer(["a red circle", "blue [MASK]"], padding=True)
    assert batch.input_ids == [[0, 3, 4, 5, 1], [0, 8, 10, 1, 11]]  # padded on the right, whatever the file says

    config = backbones.read_config(str(bert))
    tower = backbones.build_text_tower(config, weights=str(bert), vocab_size=66)
    table = tower.model.get_input_embeddings().weight
    assert table.shape[0] == tower.config.vocab_size == 66
    torch.testing.assert_close(table[64:], table[:64].mean(0).expand(2, -1))
    ids = torch.tensor([[2, 65, 3]])
    assert tower(TextInput(ids, torch.ones_like(ids).bool(), torch.zeros_like(ids))).hidden.isfinite().all()


def test_tokenizer_files_rebuild_the_tokenizer(tokenizer_folder: Path) -> None:
    tokenizer, _ = backbones.load_tokenizer(str(tokenizer_folder))
    again = backbones.tokenizer_from_files(json.loads(json.dumps(backbones.tokenizer_files(tokenizer))))
    texts = ["a red circle", "left of [MASK] blue", "unheard"]
    assert again(texts, padding=True).input_ids == tokenizer(texts, padding=True).input_ids
    assert (again.mask_token_id, again.pad_token_id, len(again)) == (10, 11, 12)


def test_a_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    transformers.ByT5Tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"tokenizer=.* is a slow one \(ByT5Tokenizer\)"):
        backbones.load_tokenizer(str(tmp_path))
