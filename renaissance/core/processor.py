"""Facts of this machine's processor, as Linux tells them; elsewhere none is known."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_CPUINFO = "/proc/cpuinfo"
_CHARACTERS = 1 << 14  # more than the first processor's lines have
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # x86 names the first two, ARM the last


@cache
def _facts(path: str) -> dict[str, str]:
    """The lines of the first processor."""
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            first = file.read(_CHARACTERS).split("\n\n")[0]
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}


def is_amd(path: str = _CPUINFO) -> bool:
    """Whether AMD has made it."""
    return _facts(path).get("vendor_id") == "AuthenticAMD"


def lacks_bf16(path: str = _CPUINFO) -> bool:
    """Whether it is known to have no units for bfloat16, which then takes longer than float32."""
    flags = _facts(path).get("flags") or _facts(path).get("Features")
    return flags is not None and not _BF16 & set(flags.split())
