"""What a run shows of its images: their transform, and the patches that are dropped, as its settings say."""

from __future__ import annotations

from renaissance.data.patch_drop import PatchDrop
from renaissance.data.transforms import Transform, make_transform
from renaissance.settings.sections import Settings


def patch_drop(settings: Settings, steps: int) -> PatchDrop | None:
    """The patch dropping of a run of so many steps; None where it has none."""
    data, model = settings.data, settings.model
    if not data.patch_drop:
        return None
    patches = (model.image_size // model.patch_size) ** 2
    return PatchDrop(data.patch_drop, patches, max(1, round(data.patch_drop_until * steps)), settings.run.seed)


def transform_of(settings: Settings, split: str) -> Transform:
    """What happens to the decoded images of a split."""
    model, data = settings.model, settings.data
    key = data.train_transform_keys[0] if split == "train" else data.val_transform_keys[0]
    return make_transform(key, model.image_size, patch_size=model.patch_size or 1, seed=settings.run.seed)
