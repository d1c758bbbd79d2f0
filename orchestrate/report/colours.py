"""Colours that people with colour-blindness tell apart, for light and dark pages alike."""

from __future__ import annotations

from dataclasses import dataclass

GROUPS = (
    "#77aadd", "#ee8866", "#eedd88", "#ffaabb", "#99ddff", "#44bb99", "#bbcc33", "#c3a5e0", "#d2b48c",
)  # fmt: skip
"""For groups that have no order, under black text: the "light" scheme of P. Tol, "Colour schemes"
(SRON technical note 09-002, 2021), with violet and tan for its olive and grey."""

TERMS = (
    "#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#6b7785", "#8c5a2b",
    "#7a5fb5",
)  # fmt: skip
"""For terms of a sum: M. Okabe and K. Ito, "Color Universal Design" (2008), then grey, brown, violet."""

_VIRIDIS = (
    (68, 1, 84), (71, 45, 123), (59, 82, 139), (44, 114, 142), (33, 145, 140), (39, 173, 129),
    (92, 200, 99), (170, 220, 50), (253, 231, 37),
)  # fmt: skip
"""S. van der Walt and N. Smith's map for ordered values (2015), at nine equal steps."""


@dataclass(frozen=True)
class Paint:
    """A fill, and the text that is readable on it."""

    fill: str
    ink: str


def of_group(index: int) -> Paint:
    """Of group ``index``; the colours come round again after the last."""
    return Paint(GROUPS[index % len(GROUPS)], "#10151b")


def of_step(index: int, steps: int) -> Paint:
    """Of place ``index`` in an ordered series of ``steps``."""
    # The first eighth is too dark to tell apart, and to see on a dark page.
    at = 0.5 if steps == 1 else 0.125 + 0.875 * index / (steps - 1)
    low = min(int(at * (len(_VIRIDIS) - 1)), len(_VIRIDIS) - 2)
    share = at * (len(_VIRIDIS) - 1) - low
    red, green, blue = (
        round(a + (b - a) * share) for a, b in zip(_VIRIDIS[low], _VIRIDIS[low + 1], strict=True)
    )
    # The eye's weights for brightness (ITU-R BT.601); at half of it black and white read alike.
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 128
    return Paint(f"#{red:02x}{green:02x}{blue:02x}", "#10151b" if bright else "#ffffff")
