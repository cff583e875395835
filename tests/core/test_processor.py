"""Facts of a processor, from what Linux says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from renaissance.core.processor import is_amd, lacks_bf16

AMD = (
    "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu avx512_bf16 sse\n\nprocessor\t: 1\nvendor_id\t: other\n"
)
INTEL = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu avx512f\n"
ARM = "processor\t: 0\nBogoMIPS\t: 2000.00\nFeatures\t: fp asimd bf16 i8mm\n"


@pytest.mark.parametrize(
    ("text", "amd", "lacks"),
    [(AMD, True, False), (INTEL, False, True), (ARM, False, False), ("nothing", False, False), (None, False, False)],
)
def test_what_is_known_of_a_processor(text: str | None, amd: bool, lacks: bool, tmp_path: Path):
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert (is_amd(str(tmp_path / "cpuinfo")), lacks_bf16(str(tmp_path / "cpuinfo"))) == (amd, lacks)
