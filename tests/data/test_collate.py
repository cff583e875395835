"""From samples to micro-batches: texts, images, targets."""

import copy

import pytest
import torch
from pair_stub import PairStub
from tokenizers.pre_tokenizers import FixedLength
from tokenizers_of_many_kinds import CAPTIONS, tokenizer_of

from renaissance.core.errors import UserError
from renaissance.data.collate import Collate, MicroBatch, Source, stack_images
from renaissance.data.loader import StepDataset
from renaissance.data.masking import MlmMasker, choose, hide
from renaissance.data.negatives import FalseImages
from renaissance.data.sampler import Draw
from renaissance.data.text import encode, vocabulary
from renaissance.data.transforms import make_transform


def source(key="vit", captions=CAPTIONS):
    return Source(PairStub(captions), make_transform(key, 32, patch_size=8, seed=0))


def examples(of: Source, count: int):
    return [of.example(Draw(0, id)) for id in range(count)]


def collate(of: Source, target_builders=None, per_gpu_batchsize=4, max_text_len=30) -> Collate:
    return Collate(tokenizer_of("word_piece"), max_text_len, per_gpu_batchsize, target_builders or {}, of)


def test_a_step_is_cut_into_micro_batches_in_order():
    data = source()
    samples = examples(data, 10)
    batches = collate(data)(samples)
    assert [batch.ids.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert all(batch.images.sizes is None and batch.images.pixels.dtype == torch.uint8 for batch in batches)
    pixels = torch.cat([batch.images.pixels for batch in batches])
    assert torch.equal(pixels, torch.stack([sample.images[0] for sample in samples]))


def test_a_tokenizer_that_panics_at_a_text_names_its_sample(capfd):
    """Of Rust code, which is a BaseException: a loader process would die without a word."""
    captions = [""] * 5 + ["a dog\x1b[31m"] + [""] * 2
    panics = copy.deepcopy(tokenizer_of("word_piece"))
    panics.backend_tokenizer.normalizer = None
    panics.backend_tokenizer.pre_tokenizer = FixedLength(0)
    data = source(captions=captions)
    step = StepDataset(Collate(panics, 30, 4, {}, data))[[Draw(0, id) for id in range(8)]]
    assert isinstance(step, UserError)
    assert str(step).startswith(r"The tokenizer cannot read the text of stub.arrow row 2, 'a dog\x1b[31m' (")
    assert [len(step) for step in [StepDataset(Collate(panics, 30, 4, {}, data))[[Draw(0, 0)]]]] == [1]


@pytest.mark.parametrize(
    ("max_text_len", "texts", "length"),
    [
        (50, ["red", "green red"], 8),  # rounded up to a multiple of 4
        (50, [" ".join(["red"] * 7)], 16),
        (50, [" ".join(["red"] * 47)], 50),  # 49 tokens: not 52
        (6, [" ".join(["red"] * 20), "red"], 6),
        (50, ["", "red"], 4),
    ],
)
def test_texts_are_padded_to_the_longest_and_cut(max_text_len, texts, length):
    tokenizer = tokenizer_of("word_piece")
    _, text = encode(tokenizer, texts, max_text_len)
    expected = tokenizer(
        texts, truncation=True, max_length=max_text_len, padding="max_length", return_tensors="pt"
    ).convert_to_tensors("pt")
    assert text.input_ids.shape == (len(texts), length) and text.attention_mask.dtype == torch.bool
    assert torch.equal(text.input_ids, expected["input_ids"][:, :length])
    assert torch.equal(text.attention_mask, expected["attention_mask"][:, :length].bool())
    assert text.attention_mask.sum() == expected["attention_mask"].sum()  # nothing real was cut by the rounding
    assert not text.token_type_ids.any() and text.token_type_ids.shape == text.input_ids.shape


def test_token_types_are_the_tokenizers_or_zero():
    class Typed:
        pad_token_id = 0

        def __init__(self, types):
            self.types = types

        def __call__(self, texts, **options):
            return {"input_ids": [[2, 7, 3], [2, 3]]} | self.types

    assert encode(Typed({}), ["a", "b"], 20)[1].token_type_ids.tolist() == [[0] * 4] * 2
    types = encode(Typed({"token_type_ids": [[0, 1, 1], [0, 1]]}), ["a", "b"], 20)[1].token_type_ids
    assert types.tolist() == [[0, 1, 1, 0], [0, 1, 0, 0]]


def test_padding_is_on_the_right_whatever_the_tokenizer_says():
    tokenizer = copy.deepcopy(tokenizer_of("unigram"))
    tokenizer.padding_side = "left"
    _, text = encode(tokenizer, ["red square", "red"], 20)
    assert text.attention_mask[:, 0].all() and (text.input_ids[~text.attention_mask] == tokenizer.pad_token_id).all()


def test_pictures_of_different_sizes_are_padded_and_measured():
    data = source("pixelbert")
    samples = examples(data, 10)
    (batch,) = collate(data, per_gpu_batchsize=10)(samples)
    pixels, sizes, _ = batch.images
    assert sizes == [sample.images[0].shape[1:] for sample in samples] and len({*sizes}) > 1
    assert pixels.shape == (10, 3, *map(max, zip(*sizes, strict=True)))
    for sample, (height, width), padded in zip(samples, sizes, pixels, strict=True):
        assert torch.equal(padded[:, :height, :width], sample.images[0])
        assert padded.sum() == sample.images[0].sum()


def test_target_builders_see_one_micro_batch_and_add_their_pictures_one_after_the_other():
    seen = []

    def doubles(micro: MicroBatch):
        seen.append([example.id for example in micro.examples])
        return tuple(micro.add_image(each.images[0], each.epoch, each.id) for each in micro.examples[:2])

    data = source()
    target_builders = {"first": doubles, "itm": FalseImages(0, 1, 1), "last": doubles}
    for batch in collate(data, target_builders)(examples(data, 8)):
        pixels = batch.images.pixels
        false = int((batch.targets["itm"].labels == 0).sum())
        assert batch.targets["first"] == (4, 5) and batch.targets["last"] == (6 + false, 7 + false)
        assert len(pixels) == 8 + false
        assert torch.equal(pixels[[4, 5]], pixels[[0, 1]]) and torch.equal(pixels[-2:], pixels[:2])
        assert batch.targets["itm"].image_index.max() < 6 + false
    assert seen == [[0, 1, 2, 3]] * 2 + [[4, 5, 6, 7]] * 2


def test_target_builders_leave_the_text_as_it_is():
    data = source()
    tokenizer = tokenizer_of("word_piece")
    with_masks = collate(data, {"mlm": MlmMasker(vocabulary(tokenizer), 0.5, True, 0)})(examples(data, 4))[0]
    without = collate(data)(examples(data, 4))[0]
    assert torch.equal(with_masks.text.input_ids, without.text.input_ids)
    assert not torch.equal(with_masks.targets["mlm"].input_ids, with_masks.text.input_ids)


def test_a_masker_of_ones_own_hides_the_words_it_likes():
    tokenizer = tokenizer_of("word_piece")
    facts = vocabulary(tokenizer)

    class Colours(MlmMasker):
        def __call__(self, micro):
            words = self.words(micro)
            for row, example in zip(words, micro.examples, strict=True):
                colour = example.text.replace("-", " - ").replace(",", " ,").split().index("red")
                row[row != colour] = -1
            return hide(micro, choose(micro, words, facts, 1.0, 0), facts, 0)

    captions = [caption for caption in CAPTIONS if " red " in caption]
    data = source(captions=captions)
    (batch,) = collate(data, {"mlm": Colours(facts, 0.15, True, 0)}, per_gpu_batchsize=6)(examples(data, 6))
    for labels in batch.targets["mlm"].labels:
        assert tokenizer.decode(labels[labels != -100]) == "red"


def test_stacking_keeps_values_in_any_memory_layout():
    picture = torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(3, 4, 5)
    strided = picture.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    for keeps_aspect in (True, False):
        pixels = stack_images([picture, strided], keeps_aspect).pixels
        assert torch.equal(pixels[0], picture) and torch.equal(pixels[1], picture)
        assert pixels.is_contiguous(memory_format=torch.channels_last)
