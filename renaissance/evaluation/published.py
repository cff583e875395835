"""Numbers that others have published of probes, in percent, each with its source; for the table beside ours.

By "<benchmark>/<metric>". The sources are the papers' own tables (P) and the tables of the benchmarks' repositories (R).
"""

from __future__ import annotations

_WINOGROUND = "Thrush et al. 2022, table 3"
PUBLISHED = {
    "winoground/text": (f"ViLT 34.75, CLIP ViT-B/32 30.75, LXMERT 19.25 ({_WINOGROUND})",),
    "winoground/image": (f"ViLT 14.00, CLIP ViT-B/32 10.50, LXMERT 7.00 ({_WINOGROUND})",),
    "winoground/group": (f"ViLT 9.25, CLIP ViT-B/32 8.00, LXMERT 4.00 ({_WINOGROUND})",),
}
