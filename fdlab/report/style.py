"""How every figure looks: exact widths, one colour a model, files that come out byte-identical again.

Colour never stands alone: a model has a colour, a marker and a line. A teacher and its first student have two tones of
one hue. The colours were found by search for the largest smallest distance under normal sight and under simulated
colour blindness. Untrained controls are grey and hollow; trained models beyond the colours are grey and filled. Greys
differ by a step that no eye sees, so that a page can tell whose line is whose (page.py).
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
    "#1f6fd6": "#4f9dff",
    "#0b2f6b": "#cfe3ff",
    "#d9480f": "#ff8a4c",
    "#6e1f00": "#ffe0c2",
    "#7a06ef": "#784cfa",
    "#049f52": "#3a7d50",
    "#6b7280": "#9aa3af",
    "#000000": "#fefefe",  # what matplotlib draws where nothing is said
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
    base: str = ""  # the colour that is seen, where ``color`` is a step beside it

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


# Teacher and first student: the middle tone of a hue, and its deep one (pale on a dark page).
LINEAGES = (
    (Look("#1f6fd6", "o", "-"), Look("#0b2f6b", "^", "--")),
    (Look("#d9480f", "s", "-"), Look("#6e1f00", "v", "--")),
)
SINGLE = (Look("#7a06ef", "D", "-."), Look("#049f52", "P", LONG_DASH))
GREY = "#6b7280"
COLORS = (*(look.color for look in (*LINEAGES[0], *LINEAGES[1], *SINGLE)), GREY)
# Beyond the colours, and for controls: grey with other markers and lines.
_SPARE = (
    *(("X", (0, (5, 1))), ("*", (0, (2, 1))), ("p", ":"), ("h", (0, (4, 1, 1, 1)))),
    *(("<", (0, (6, 1, 1, 1))), (">", (0, (3, 1, 1, 1, 1, 1))), ("8", (0, (3, 1))), ("d", (0, (1, 2)))),
)
_CONTROLS = (
    *(("o", (0, (1, 1.2))), ("s", (0, (4, 2))), ("D", "-."), ("^", "-"), ("v", "--"), ("h", ":")),
    *(("p", (0, (5, 1))), ("8", (0, (2, 1)))),
)


def looks(
    names: Sequence[str],
    family: Mapping[str, str],
    teachers: Mapping[str, str] | None = None,
    kin: Mapping[str, str] | None = None,
) -> dict[str, Look]:
    """A look for every model, in this order: one colour a model up to six trained ones, else one hue a lineage.

    Args:
        names: the models.
        family: of each; ``random`` is a control.
        teachers: {model: the one that it was distilled from}.
        kin: {model: its lineage}; by default a teacher and its students are one.
    """
    parents = {name: (teachers or {}).get(name, "") for name in names}
    controls = [name for name in names if family.get(name) == "random"]
    trained = [name for name in names if name not in controls]
    found = _single(trained, parents) if len(trained) <= len(COLORS) - 1 else _by_kin(trained, parents, kin or {})
    for count, name in enumerate(controls):
        marker, line = _CONTROLS[count % len(_CONTROLS)]
        found[name] = Look(_beside(GREY, 2 * count), marker, line, False, GREY)
    return {name: found[name] for name in names}


def _single(trained: Sequence[str], parents: Mapping[str, str]) -> dict[str, Look]:
    """A colour for each: students the deep tone of their teacher's hue, as far as there are hues of two tones."""
    roots = [name for name in trained if parents[name] not in trained]
    chosen = sorted(roots, key=lambda name: name not in parents.values())[: len(LINEAGES)]
    hues = {name: number for number, name in enumerate(name for name in trained if name in chosen)}
    found = {name: LINEAGES[number][0] for name, number in hues.items()}
    free = list(SINGLE)
    for name in trained:
        parent = parents[name]
        if parent in hues and LINEAGES[hues[parent]][1] not in found.values():
            found[name] = LINEAGES[hues[parent]][1]
        elif name not in found:
            # the deep tone of a hue that has no student is the last that is taken: it looks like one
            spare = [pair[1] for pair in LINEAGES if pair[1] not in found.values()]
            found[name] = free.pop(0) if free else spare[-1]
    return found


def _by_kin(trained: Sequence[str], parents: Mapping[str, str], kin: Mapping[str, str]) -> dict[str, Look]:
    """One hue a lineage: teachers its middle tone, students its deep one; members differ by marker and line."""
    groups: dict[str, int] = {}
    seen: dict[str, int] = {}
    found = {}
    for name in trained:
        number = groups.setdefault(kin.get(name) or parents[name] or name, len(groups))
        hues = (*LINEAGES, *((look, look) for look in SINGLE))
        first = hues[number][bool(parents[name])] if number < len(hues) else Look(GREY, "X", (0, (5, 1)))
        count = seen.get(first.color, 0)
        seen[first.color] = count + 1
        marker, line = (first.marker, first.line) if not count else _SPARE[(count - 1) % len(_SPARE)]
        found[name] = Look(
            _beside(first.color, 2 * count + (first.color == GREY)), marker, line, count % 2 == 0, first.color
        )
    return found


def _beside(color: str, count: int) -> str:
    """A colour ``count`` steps of the blue channel away."""
    blue = int(color[5:], 16)
    return f"{color[:5]}{blue + (count if blue < 128 else -count):02x}"


def looks_of(report: Report) -> dict[str, Look]:
    """The looks of all models of a report: the same in each of its figures."""
    names = list(dict.fromkeys([*report.models, *report.measured("curve")]))
    return looks(names, report.families, *report.lineages)


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
