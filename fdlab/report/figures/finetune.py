"""Accuracy after fine-tuning, with the training loss beside it: equal accuracies at unequal losses differ."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fdlab.report.captions import Caption, caution, compared, listed, options, pair, seeds, several_seeds
from fdlab.report.style import WIDE, Look, bars, looks_of, new_figure, number_above, wrap
from fdlab.report.summary import Facts, control_of, families, models, of_model, rows, separated, show

TITLE = "Accuracy after fine-tuning"
METRICS = ("accuracy", "final_loss")


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not rows(table, "training", "accuracy").empty


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """A row a model; one point a run (seed) with its binomial interval."""
    names = models(rows(table, "training", "accuracy"), facts, "training")
    look = looks_of(table, facts)
    loss = not rows(table, "training", "final_loss").empty
    figure = new_figure(WIDE, 0.55 + 0.29 * len(names))
    grid = figure.subplots(1, 2 if loss else 1, sharey=True, squeeze=False, width_ratios=[3, 1] if loss else [1])[0]
    for place, name in enumerate(names):
        _points(grid[0], rows(table, "training", "accuracy"), name, place, look[name], 100, "{:.1f}")
        if loss:
            _points(grid[1], rows(table, "training", "final_loss"), name, place, look[name], 1, "{:.2f}")
    for axes in grid:
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    grid[0].set_yticks(range(len(names)), [wrap(name, 26, 2) for name in names], fontsize=7)
    grid[0].set_ylim(len(names) - 0.4, -0.6)
    grid[0].set_xlabel("test accuracy (%), 95 % binomial")
    if loss:
        grid[1].set_xlabel("final training loss")
        grid[1].margins(x=0.25)
    return figure


def _points(axes: Axes, data: pd.DataFrame, name: str, place: int, look: Look, scale: float, form: str) -> None:
    """The runs of one model in one panel, several seeds one under the other; a single one with its number."""
    runs = data[(data["model"] == name) & data["value"].notna()]
    for number, run in enumerate(runs.itertuples()):
        y = place + (number - (len(runs) - 1) / 2) * 0.5 / max(len(runs), 1)
        value = run.value * scale
        axes.errorbar([value], [y], xerr=bars(run) * scale, ls="", elinewidth=1.0, **look.points(5))
        if len(runs) == 1:
            number_above(axes, form.format(value), value, y)


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    accuracy = rows(table, "training", "accuracy")
    names = models(accuracy, facts, "training")
    splits = facts.get("splits", {})
    tested = splits.get("test") or (int(accuracy["n"].max()) if accuracy["n"].notna().any() else None)
    labels = f" on {splits['labelled']} labelled images" if splits.get("labelled") else ""
    test = f", {tested} test images" if tested else ""
    data = f" of {facts['data']}" if facts.get("data") else ""
    runs = "several seeds a model" if several_seeds(accuracy) else "one training a model" + seeds(facts)
    spread = "; numbers over seeds are the mean and the lowest and highest bound" if several_seeds(accuracy) else ""
    return (
        f"Test accuracy after fine-tuning{labels}{test}{data}, {runs}{options(names, facts)}.",
        f"Further right is better; bars are 95 % binomial (Wilson) intervals over test images{spread}, grey hollow "
        "markers are untrained starts, and the right panel gives the training loss at which each fine-tuning ended.",
        _comparison(table, facts, names),
        caution(
            "The intervals speak of the test images alone, and accuracies at unequal training losses also "
            "compare "
            "how far each fine-tuning got",
            names,
            accuracy,
            facts,
        ),
    )


def _comparison(table: pd.DataFrame, facts: Facts, names: list[str]) -> str:
    chosen = pair(names, families(table), facts)
    if chosen is None:
        value = show(of_model(table, "training", "accuracy", names[0]), "accuracy", unit=True)
        return f"{names[0]} reaches {value}; there is no second model to compare it with."
    first, second = (of_model(table, "training", "accuracy", name) for name in chosen)
    sentence = compared("test accuracy", "accuracy", (first, second), chosen)
    better = []
    for name in chosen:
        control = control_of(name, facts, names)
        own = of_model(table, "training", "accuracy", name)
        if control and separated(own, of_model(table, "training", "accuracy", control)):
            way = "above" if own.value > of_model(table, "training", "accuracy", control).value else "below"
            better.append(f"{name} lies {way} its untrained start")
    return sentence if not better else sentence.rstrip(".") + "; with separate intervals, " + listed(better) + "."


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text."""
    training = rows(table, "training")
    several = several_seeds(training)
    lines = []
    for name in models(rows(table, "training", "accuracy"), facts, "training"):
        for seed, own in training[training["model"] == name].groupby("seed", dropna=False):
            line = {"model": name, "seed": str(seed)} if several else {"model": name}
            accuracy = of_model(own, "training", "accuracy", name)
            line["accuracy % (95 %)"] = show(accuracy, "accuracy")
            line["test images"] = str(accuracy.n or "–")
            line["final training loss"] = show(of_model(own, "training", "final_loss", name), "final_loss")
            rate = of_model(own, "training", "learning_rate", name)
            line["learning rate"] = f"{rate.value:.2g}" if rate.known else "–"
            lines.append(line)
    return pd.DataFrame(lines)
