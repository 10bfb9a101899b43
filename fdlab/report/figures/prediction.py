"""Which measures rank models as their fine-tuning does: Kendall's tau-b with interval, a row a measure."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.figure import Figure

from fdlab.records.metrics import METRICS as KNOWN
from fdlab.report.captions import Caption, options
from fdlab.report.style import FAINT, INK, PAPER, WIDE, new_figure, wrap
from fdlab.report.summary import Facts, rows

TITLE = "Which measures rank the models by fine-tuning"
METRICS = ("kendall_tau", "kendall_one_out", "kendall_family_out", "kendall_p", "kendall_p_holm")
MOST = 24  # rows that are drawn; the numbers have all
LEVEL = 0.05


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not rows(table, "predict", "kendall_tau").empty


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """A row a measure, clearest first: dot and interval, the range without one family behind, p at the right."""
    found = _found(table).head(MOST)
    figure = new_figure(WIDE, 0.75 + 0.22 * len(found))
    axes = figure.subplots()
    axes.axvline(0, color=INK, lw=0.7, zorder=1)
    for place, one in enumerate(found.itertuples()):
        for metric, height in (("family", 0.62), ("one", 0.3)):
            low, high = getattr(one, f"{metric}_low"), getattr(one, f"{metric}_high")
            if math.isfinite(low):
                shade = FAINT if metric == "one" else "none"
                axes.barh(place, high - low, height, left=low, color=shade, edgecolor=FAINT, lw=0.7, zorder=2)
        clear = one.holm <= LEVEL
        if math.isfinite(one.low):
            axes.plot([one.low, one.high], [place, place], color=INK, lw=1, zorder=3, solid_capstyle="butt")
        axes.plot([one.tau], [place], "o", ms=4.5, color=INK, mfc=INK if clear else PAPER, mew=0.9, zorder=4)
        axes.text(1.03, place, f"{one.holm:.2g}", va="center", fontsize=6.5, transform=axes.get_yaxis_transform())
    axes.text(1.03, -1, "p (Holm)", va="center", fontsize=6.5, transform=axes.get_yaxis_transform())
    axes.set_yticks(range(len(found)), [wrap(_label(name), 30, 2) for name in found["measure"]], fontsize=6)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlim(-1.04, 1.04)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel(f"Kendall's tau-b with {facts.get('score', 'the fine-tuning score')} (95 %)")
    return figure


def _label(name: str) -> str:
    return KNOWN[name].label if name in KNOWN else name


def _found(table: pd.DataFrame) -> pd.DataFrame:
    """One row a measure: measure, n, tau, low, high, p, holm, one_low, one_high, family_low, family_high."""
    own = rows(table, "predict")
    of = {metric: own[own["metric"] == metric].set_index("objective") for metric in METRICS}
    tau = of["kendall_tau"]
    found = pd.DataFrame({"tau": tau["value"], "low": tau["low"], "high": tau["high"], "n": tau["n"]})
    found["p"], found["holm"] = of["kendall_p"]["value"], of["kendall_p_holm"]["value"]
    for name in ("one", "family"):
        for end in ("low", "high"):
            found[f"{name}_{end}"] = of[f"kendall_{name}_out"][end]
    return found.rename_axis("measure").reset_index()


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    found = _found(table)
    n, clear = int(found["n"].max()), found[found["holm"] <= LEVEL]
    best = found.iloc[0]
    names = [name for name in dict.fromkeys(rows(table, "predict")["model"]) if name]
    rest = f", the clearest {MOST} of {len(found)}" if len(found) > MOST else ""
    first = f"{_label(best['measure'])} is the clearest, {best['tau']:+.2f} ({best['low']:+.2f} to {best['high']:+.2f})"
    least = 2 / math.factorial(n)
    if least > LEVEL:
        shows = f"With {n} models nothing can be told from 0: even a perfect ranking has p = {least:.2g}; {first}."
    elif clear.empty:
        shows = f"None of {len(found)} measures is told from 0 after correction for their number; {first}."
    else:
        shows = f"{len(clear)} of {len(found)} measures are told from 0 after correction for their number; {first}."
    score = facts.get("score", "the fine-tuning score")
    return (
        f"Kendall's tau-b between {score} and each measure over {n} models{rest}{options(names, facts)}.",
        "At 1 a measure orders the models as their fine-tuning does, at -1 the other way round; lines are 95 % "
        "intervals, grey bars the range without any one model, open bars without any one family, and filled dots have "
        "p at most 0.05 after Holm's correction.",
        shows,
        "A measure that ranks these models need not rank others, models of one family are not independent, and no "
        "order is a cause.",
    )


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text."""
    found = _found(table)
    return pd.DataFrame(
        {
            "measure": [_label(name) for name in found["measure"]],
            "models": found["n"].astype(str),
            "tau-b (95 %)": [
                f"{a:+.2f} ({b:+.2f} to {c:+.2f})" for a, b, c in found[["tau", "low", "high"]].to_numpy()
            ],
            "without one model": _ranges(found, "one"),
            "without one family": _ranges(found, "family"),
            "p": found["p"].map("{:.2g}".format),
            "p (Holm)": found["holm"].map("{:.2g}".format),
        }
    )


def _ranges(found: pd.DataFrame, name: str) -> list[str]:
    ends = found[[f"{name}_low", f"{name}_high"]].astype(float).to_numpy()
    return [f"{low:+.2f} to {high:+.2f}" if math.isfinite(low) else "–" for low, high in ends]
