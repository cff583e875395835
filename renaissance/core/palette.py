"""Colours, dashes and markers of all figures: the colour-blind tell the colours apart, and a grey print the rest."""

from __future__ import annotations

# Okabe and Ito (2008), for white paper; and the same hues for a dark page.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
ON_DARK = ("#4FA8E8", "#FF8A42", "#2FC49A", "#E3A0C6", "#F2F2F2", "#9AD7FA", "#FFC54D")
MARKERS, DASHES = "osD^vP*Xh<>", ("-", "--", ":", "-.")  # in matplotlib's letters
