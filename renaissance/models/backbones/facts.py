"""What a model of another program does otherwise than its family: facts that its configuration has, and so its checkpoint.

transformers knows none of them. `import` sets them; a configuration without one says what the family does.
"""

from __future__ import annotations

from typing import NamedTuple

from transformers import PreTrainedConfig

from renaissance.core.untrusted import expect


class Facts(NamedTuple):
    """Attributes:
    final_norm: whether the norm behind the last block is applied to all tokens; None as the family does: in one-towers where
        it has one, in towers where transformers' model does.
    bilinear_positions: whether positions of patches on another grid are interpolated bilinearly with aligned corners.
    patch_norm: whether a one-tower's own patch embeddings end in a layer norm.
    """

    final_norm: bool | None = None
    bilinear_positions: bool = False
    patch_norm: bool = True


def facts_of(config: PreTrainedConfig) -> Facts:
    """The facts of a configuration.

    Raises:
        UserError: one is no bool.
    """
    given = {name: getattr(config, name) for name in Facts._fields if hasattr(config, name)}
    hints = {name: bool | None if name == "final_norm" else bool for name in given}
    return Facts(**{name: expect(value, hints[name], f"{name} in the configuration") for name, value in given.items()})
