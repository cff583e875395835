"""The values that travel from the data to the loss, all NamedTuples.

Lightning moves NamedTuples to the device as they are, and `pin_memory` handles them.

Shape legend, used in every docstring of the package:

    B   examples of a micro-batch          M   images of a micro-batch: each example's own, then those drawn as false ones
    L   text tokens                        P   image tokens
    H,W pixels                             D   width of the fusion, or of the one tower
    N   tokens of one modality             V   pieces of the vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100  # the label that torch's cross-entropy leaves out


class TextInput(NamedTuple):
    """Tokenised texts, padded on the right to one length.

    Attributes:
        input_ids: (B, L) int64.
        attention_mask: (B, L) bool, True on real tokens.
        token_type_ids: (B, L) int64, all 0 but in sentence pairs.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor


class ImageInput(NamedTuple):
    """Images of a micro-batch, not yet normalised.

    Attributes:
        pixels: (M, 3, H, W) uint8 RGB; normalised on the device by the model's mean and standard deviation. On their way there
            JPEG files may stand for them (`data.encoded.EncodedPixels`).
        sizes: real height and width in pixels of each image, or None where all images fill (H, W).
        kept: (M, K) int64, in ascending order, the patches of each image that are encoded, counted row by row from 0; None
            where all are.
    """

    pixels: Tensor
    sizes: Sequence[tuple[int, int]] | None = None
    kept: Tensor | None = None


class StoredTokens(NamedTuple):
    """Where the tokens of an image, or of a box of one, are kept.

    Attributes:
        file: `data.token_cache.TokenFile`. part: of it. place: in the part.
        image_key: hash of the encoded image, as `Example.image_key`.
    """

    file: Any
    part: int
    place: int
    image_key: int


class Example(NamedTuple):
    """One sample of a data set as a task reads it: what to show, and what to ask of it.

    Attributes:
        id: position of the sample in its data set: its identity in masks and negatives.
        images: its own images, encoded, none where the task reads none; in a batch after the transforms, each (3, H, W) uint8
            RGB; or where the tokens of each are.
        text: caption, question or sentence.
        text_keys: hashes of all captions of the image (`data.identity.text_key`).
        image_key: hash of the encoded image (`data.identity.image_key`); equal images have equal hashes.
        where: "file.arrow row 12", for messages.
        text_pair: the second text of a sentence pair.
        label: what a task learns of it; None where it is hidden.
        metadata: for the predictions file: "id", "target" and what the task's metrics need besides.
        boxes: [x, y, width, height] in pixels of `images[0]`; each is cut out and becomes an image of its own.
        epoch: the pass over the data it is drawn for; with `seed` and `id` it decides every random choice.
        step: the optimizer step that it is drawn for; 0 in an evaluation.
    """

    id: int
    images: tuple[bytes, ...] | tuple[Tensor, ...] | tuple[StoredTokens, ...]
    text: str
    text_keys: frozenset[int] = frozenset()
    image_key: int = 0
    where: str = ""
    text_pair: str | None = None
    label: Any = None
    metadata: Mapping[str, Any] = {}
    boxes: Sequence[Sequence[float]] | None = None
    epoch: int = 0
    step: int = 0


class Batch(NamedTuple):
    """One micro-batch.

    Attributes:
        ids: (B,) int64, `Example.id` of each example.
        text: the texts as they are, nothing masked.
        images: those of the first example, of the second and so on, then those that target builders added; their `Tokens`
            (M, P, H) out of a frozen image tower where these are kept (`cache_frozen`); None where there is none.
        targets: what each chosen task wants of this micro-batch, by the task's name.
        image_counts: how many images of its own each example has; None = one each.
    """

    ids: Tensor
    text: TextInput
    images: ImageInput | Tokens | None
    targets: dict[str, Any]
    image_counts: tuple[int, ...] | None = None


class LabelTargets(NamedTuple):
    """The classes of B examples.

    Attributes:
        labels: (B,) int64, or float scores; -100 where it is hidden, as in a test split.
        metadata: `Example.metadata` of each.
    """

    labels: Tensor
    metadata: tuple[Mapping[str, Any], ...]


class MlmTargets(NamedTuple):
    """What to read, and what to say of it; `data.masking.mlm_targets` makes it.

    Attributes:
        input_ids: (B, L) int64, with masked positions replaced.
        labels: (B, L) int64, the true piece there, -100 elsewhere.
        positions: (n,) int64, the masked ones among all B * L, in order.
    """

    input_ids: Tensor
    labels: Tensor
    positions: Tensor


class ItmTargets(NamedTuple):
    """Which image each text is fused with.

    Attributes:
        image_index: (B,) int64 into the M images of the micro-batch.
        labels: (B,) int64, 1 where the image is the text's own, else 0.
        stayed: (B,) bool, True where a false image was due but the group held none that was eligible.
        image_ids: of each text the id of the sample whose image that is.
    """

    image_index: Tensor
    labels: Tensor
    stayed: Tensor
    image_ids: Sequence[int] = ()


class FalseTextTargets(NamedTuple):
    """False texts of B images.

    Attributes:
        text: (B * N, L), the N false texts of each in turn.
        labels: (B,) int64, 0: of its texts the own one is the first.
        metadata: `Example.metadata` of each.
    """

    text: TextInput
    labels: Tensor
    metadata: tuple[Mapping[str, Any], ...]


class ProbeTargets(NamedTuple):
    """The texts of B rows of a probe.

    Attributes:
        text: (T, L), those of each row in turn.
        counts: how many each row has.
        asked: (T, L) bool, the pieces of the texts' own, without special ones.
        mask_id: of the tokenizer.
        metadata: `Example.metadata` of each row.
    """

    text: TextInput
    counts: tuple[int, ...]
    asked: Tensor
    mask_id: int | None
    metadata: tuple[Mapping[str, Any], ...]


class ItcTargets(NamedTuple):
    """Attributes: compared, (B, B) bool, which images each text is told apart from: its own and those of its group."""

    compared: Tensor


class Tokens(NamedTuple):
    """One modality, embedded. Attributes: hidden (B, N, D); mask (B, N) bool, True on real tokens, None where all are real."""

    hidden: Tensor
    mask: Tensor | None

    def select(self, index: Tensor) -> Tokens:
        """The rows that `index` (n,) int64 names, which may repeat: (n, N, D)."""
        mask = None if self.mask is None else self.mask.index_select(0, index)
        return Tokens(self.hidden.index_select(0, index), mask)


class Fused(NamedTuple):
    """What comes out of the fusion; a part that nobody asked for, or whose modality is absent, is None.

    Attributes: pooled (B, Dp); text (B, L, D); image (B, P, D).
    """

    pooled: Tensor | None
    text: Tensor | None
    image: Tensor | None


class TaskOutput(NamedTuple):
    """What a task makes of a micro-batch.

    Attributes:
        loss: () the SUM of the items' losses.
        count: () float, the number of items that `loss` sums over.
        logits: (count, classes) and
        labels: (count,) what the task's metrics read.
    """

    loss: Tensor
    count: Tensor
    logits: Tensor
    labels: Tensor
