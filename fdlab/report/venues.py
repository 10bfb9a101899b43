"""Where a figure is printed: exact widths of columns, and how much larger it is on slides.

Widths in inches: NeurIPS, ICML, CVPR from their style files (the NeurIPS page has one column; its half is for two
figures side by side); ``page`` is what the report page and the lessons use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import numpy as np
from matplotlib.collections import Collection, PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.offsetbox import PackerBase
from matplotlib.patches import Patch
from matplotlib.text import Annotation, Text

from fdlab.errors import USAGE, FdlabError, nearest

WIDE, COLUMN = 5.5, 3.25  # what figures are laid out for: a full width, one column of two


class Venue(NamedTuple):
    """Widths in inches of a narrow and of a wide figure; ``zoom`` enlarges everything alike."""

    column: float
    wide: float
    zoom: float = 1.0


VENUES = {
    "page": Venue(COLUMN, WIDE),
    "neurips": Venue(2.7, 5.5),
    "icml": Venue(3.25, 6.75),
    "cvpr": Venue(3.25, 6.875),
    "slides": Venue(COLUMN, WIDE, 1.8),
}
_now: ContextVar[Venue] = ContextVar("venue", default=VENUES["page"])


def width_at_venue(laid_out: float) -> float:
    """The width at the present venue of a figure laid out for ``COLUMN`` or ``WIDE``."""
    venue = _now.get()
    return {COLUMN: venue.column, WIDE: venue.wide}.get(laid_out, laid_out)


@contextmanager
def at_venue(name: str) -> Iterator[Venue]:
    """Figures drawn inside have this venue's widths.

    Raises:
        FdlabError: code 2, no such venue.
    """
    if name not in VENUES:
        raise FdlabError(
            f"There is no venue {name!r}.{nearest(name, VENUES)}", f"There are: {', '.join(VENUES)}.", code=USAGE
        )
    token = _now.set(VENUES[name])
    try:
        yield VENUES[name]
    finally:
        _now.reset(token)


def enlarge(figure: Figure) -> Figure:
    """The figure at the present venue's zoom: size, text, markers and lines grow alike."""
    zoom = _now.get().zoom
    if zoom == 1.0:
        return figure
    figure.set_size_inches(*(zoom * figure.get_size_inches()))
    for text in figure.findobj(Text):
        text.set_fontsize(zoom * float(text.get_fontsize()))
        if isinstance(text, Annotation) and text.anncoords == "offset points":
            text.xyann = (zoom * text.xyann[0], zoom * text.xyann[1])
    for box in figure.findobj(PackerBase):  # the gaps inside legends
        box.sep, box.pad = zoom * (box.sep or 0), zoom * (box.pad or 0)
    for line in figure.findobj(Line2D):
        line.set_linewidth(zoom * line.get_linewidth())
        line.set_markersize(zoom * line.get_markersize())
        line.set_markeredgewidth(zoom * line.get_markeredgewidth())
    for kept in figure.findobj(Collection):
        kept.set_linewidth([zoom * width for width in np.atleast_1d(kept.get_linewidth())])
        if isinstance(kept, PathCollection):
            kept.set_sizes(zoom**2 * kept.get_sizes())
    for patch in figure.findobj(Patch):
        patch.set_linewidth(zoom * patch.get_linewidth())
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            for which in ("major", "minor"):
                now = axis.get_tick_params(which=which)
                axis.set_tick_params(which=which, length=zoom * now.get("length", 2.5), pad=zoom * now.get("pad", 2))
    return figure
