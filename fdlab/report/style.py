"""How every figure looks: exact widths, one look a family, files that come out byte-identical again.

Colour never stands alone: a family has a colour, a marker and a line style, found by search for the
largest smallest distance under normal sight and under simulated colour blindness. Untrained controls
are grey. Further models of one family keep the colour and change the marker and the line; their colours differ
by a step that no eye sees, so that a page can tell whose line is whose (page.py).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fdlab.records.atomic import replacing
from fdlab.report.report import Report
from fdlab.report.venues import COLUMN, WIDE, width_at_venue

__all__ = ["COLUMN", "WIDE"]  # the widths that figures are laid out for
INK, PAPER, FAINT, GRID = "#111111", "#ffffff", "#c2c2c2", "#e4e4e4"
DOTS = 200  # an inch of a PNG

# What stands for each colour on a dark page; page.py turns the left ones into CSS variables.
DARK = {
    INK: "#e9eaec",
    PAPER: "#15181c",
    FAINT: "#565c64",
    GRID: "#2c3138",
    "#4477aa": "#33bbee",
    "#ee6677": "#ee6678",
    "#8b4513": "#ffd166",
    "#000000": "#fefefe",
    "#332288": "#785ef0",
    "#a89018": "#907818",
    "#5c5c5c": "#b0b0b0",
}

# A sequence from dark to light for surfaces, the same on light and dark pages.
SHADES_OF_BLUE = ("#0b2a4a", "#17436c", "#285d8f", "#4379ac", "#6796c3", "#8fb3d5", "#b7cfe4", "#dde8f1")
MARK = "#cc3311"  # a place on such a surface: no model's colour, and seen on every shade
DARK |= {shade: shade for shade in (*SHADES_OF_BLUE, MARK)}

LONG_DASH = (0, (7, 2))


class Look(NamedTuple):
    """How one model is drawn."""

    color: str
    marker: str
    line: Any
    fill: bool = True
    base: str = ""  # the family's colour, where ``color`` is a step beside it

    def points(self, size: float = 4.5) -> dict[str, Any]:
        """Keyword arguments for a marker: filled, or hollow with an edge of its colour."""
        return {
            "marker": self.marker,
            "color": self.color,
            "markersize": size,
            "markerfacecolor": self.color if self.fill else PAPER,
            "markeredgecolor": self.color,
            "markeredgewidth": 0.9,
        }


FAMILIES = {
    "mim": Look("#4477aa", "o", "-"),
    "contrastive": Look("#ee6677", "s", "--"),
    "distilled": Look("#8b4513", "^", "-."),
    "supervised": Look("#000000", "D", ":"),
    "image-text": Look("#332288", "P", LONG_DASH),
    "random": Look("#5c5c5c", "o", (0, (1, 1.2)), False),
}
OTHER = Look("#a89018", "v", (0, (3, 1, 1, 1, 1, 1)))
# The second, third, ... model of a family: hollow, then other markers and lines.
_SPARE = (
    *(("", None), ("", "-"), ("h", (0, (5, 1))), ("*", (0, (2, 1))), ("p", ":"), ("X", "--")),
    *(("<", (0, (6, 1, 1, 1))), (">", "-."), ("8", (0, (3, 1))), ("d", (0, (1, 2)))),
)
_SPARE_RANDOM = (("", None), ("s", (0, (4, 2))), ("D", "-."), ("^", "-"), ("v", "--"), ("h", ":"))


def looks(names: Sequence[str], family: Mapping[str, str]) -> dict[str, Look]:
    """A look for every model, different within a family."""
    seen: dict[str, int] = {}
    result = {}
    for name in names:
        kind = family.get(name, "")
        first = FAMILIES.get(kind, OTHER)
        count = seen.get(first.color, 0)
        seen[first.color] = count + 1
        spare = _SPARE_RANDOM if kind == "random" else _SPARE
        marker, line = spare[count % len(spare)]
        # The second model is the hollow form of the first; a solid line is taken by "mim" already.
        if count == 1 and kind == "mim":
            line = LONG_DASH
        filled = kind != "random" and count % 2 == 0
        result[name] = Look(
            _beside(first.color, count), marker or first.marker, line or first.line, filled, first.color
        )
    return result


def _beside(color: str, count: int) -> str:
    """A colour ``count`` steps of the blue channel away."""
    blue = int(color[5:], 16)
    return f"{color[:5]}{blue + (count if blue < 128 else -count):02x}"


def looks_of(report: Report) -> dict[str, Look]:
    """The looks of all models of a report: the same in each of its figures."""
    names = [*report.models, *report.measured("curve")]
    return looks(list(dict.fromkeys(names)), report.families)


@cache
def _settings() -> dict[Any, Any]:
    """matplotlib's defaults with the house's style on top; what chooses a backend is left out."""
    style = resources.files("fdlab.report").joinpath("figures.mplstyle")
    with resources.as_file(style) as path:
        chosen = mpl.rc_params_from_file(path, use_default_template=False)
    return {k: v for k, v in mpl.rcParamsDefault.items() if not k.startswith("backend")} | dict(chosen)


def settings() -> Any:
    """A context in which figures are drawn and saved: matplotlib's own defaults plus figures.mplstyle.

    Starting from the defaults keeps a user's matplotlibrc from changing the bytes.
    """
    return mpl.rc_context(_settings())


def new_figure(width: float, height: float) -> Figure:
    """A figure of exactly this size in inches (``COLUMN`` and ``WIDE``: those of the venue), without pyplot's state."""
    figure = Figure(figsize=(width_at_venue(width), height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def bars(data: Any) -> Any:
    """Error bars (2, n) of rows or of one estimate with value, low, high; unknown bounds draw nothing."""
    value, low, high = (np.atleast_1d(np.asarray(getattr(data, part), float)) for part in ("value", "low", "high"))
    return np.nan_to_num(np.clip([value - low, high - value], 0, None))


def wrap(label: str, width: int = 18, lines: int = 3) -> str:
    """A long model label over several lines; what does not fit in ``lines`` is cut with an ellipsis.

    ``$`` is escaped: a label is never read as a formula.
    """
    parts = textwrap.wrap(label, width, break_long_words=True) or [""]
    if len(parts) > lines:
        parts = [*parts[: lines - 1], parts[lines - 1][: width - 1].rstrip() + "…"]
    return "\n".join(parts).replace("$", r"\$")


def block_ticks(axes: Axes, blocks: int) -> None:
    """Ticks at the first, the middle and the last block (all of them up to six)."""
    shown = range(1, blocks + 1) if blocks <= 6 else sorted({1, (blocks + 1) // 2, blocks})
    axes.set_xticks(list(shown))
    axes.set_xlim(0.5, blocks + 0.5)


def name_panels(figure: Figure, names: Sequence[str]) -> None:
    """Marks every axes that shows one model alone, by its title or by that of the axes above it.

    The mark ``panel-MODEL-AXES`` (numbers) becomes the id of the panel's group in an SVG.
    """
    titles = {_plain(wrap(name, width, lines)): place for place, name in enumerate(names) for width, lines in _TITLES}
    above: dict[Any, int] = {}
    for number, axes in enumerate(figure.axes):
        spec = axes.get_subplotspec()
        column = (id(spec.get_gridspec()), spec.colspan.start) if spec is not None else number
        title = _plain(axes.get_title("left") or axes.get_title())
        if title:
            above.pop(column, None)
        if title in titles:
            above[column] = titles[title]
        if column in above:
            axes.set_gid(f"panel-{above[column]}-{number}")


# The widths and numbers of lines in which panels are titled: a cut title is known again by its cut form.
_TITLES = [(width, lines) for width in range(12, 41) for lines in (1, 2, 3)]


def _plain(title: str) -> str:
    return "".join(title.split())


def number_above(axes: Axes, text: str, x: float, y: float) -> None:
    """A point's number, small, just above it."""
    axes.annotate(text, (x, y), (0, 4.5), textcoords="offset points", ha="center", fontsize=6)


def save_figure(
    figure: Figure, folder: Path | str, name: str, kinds: Sequence[str] = ("pdf", "svg", "png"), note: str = ""
) -> list[Path]:
    """Writes NAME.KIND for every kind (PNG: 200 dots an inch) in the figure's exact size.

    No date, no creator and fixed ids are written: the same table gives the same bytes. ``note`` (ASCII) is kept in
    each file, where ``fdlab explain FILE`` finds it again.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with settings(), laid_out(figure):
        for kind in kinds:
            path = folder / f"{name}.{kind}"
            options: dict[str, Any] = {"metadata": METADATA[kind] | ({_NOTE[kind]: note} if note else {})}
            if kind == "png":
                options |= {"dpi": DOTS, "facecolor": PAPER}
            with replacing(path) as draft:
                figure.savefig(draft, format=kind, **options)
            written.append(path)
    return written


@contextmanager
def laid_out(figure: Figure) -> Iterator[None]:
    """The layout is found once and holds for every format, else each savefig draws the figure twice to find its own."""
    engine, dots = figure.get_layout_engine(), figure.dpi
    figure.set_dpi(DOTS)
    figure.draw_without_rendering()
    figure.set_dpi(dots)
    figure.set_layout_engine(None)  # none at all: matplotlib's "none" still draws twice
    try:
        yield
    finally:
        figure.set_layout_engine(engine)


METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "png": {"Software": None},
}
KINDS = tuple(METADATA)
_NOTE = {"pdf": "Keywords", "svg": "Description", "png": "Description"}
