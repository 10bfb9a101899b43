"""The loss on a plane through the weights: a panel a model and form, shared levels."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure as Drawing

from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.figures.layout import bands, filled, label_outer, shade_bar
from fdlab.report.style import COLUMN, INK, LINEAGES, PAPER, SHADES_OF_BLUE, WIDE, new_figure, wrap

FORMS = {"plane": "random", "eigenvectors": "sharpest two", "trajectory": "path of the training"}
SPANNED_BY = {
    "plane": "two random filter-normalised directions",
    "eigenvectors": "the two sharpest directions",
    "trajectory": "the two principal axes of the training's path",
}
ACROSS = 3
SHADES = ListedColormap(list(SHADES_OF_BLUE)).with_extremes(over=PAPER)


class LandscapePlane(Figure):
    """Shades and lines of the same losses in every panel, in equal steps of the logarithm."""

    metrics = ("loss_plane", "loss_trajectory", "loss_eigenvectors", "trajectory")
    probe = "landscape"

    @cached_property
    def panels(self) -> list[tuple[str, str]]:
        """(form, model) of every panel."""
        return [(form, name) for form in FORMS for name in self.report.measured(self.probe, f"loss_{form}")]

    @property
    def present(self) -> bool:
        return bool(self.panels)

    @cached_property
    def names(self) -> list[str]:
        return list(dict.fromkeys(name for _, name in self.panels))

    @cached_property
    def forms(self) -> list[str]:
        """The forms of planes that the table has."""
        return list(dict.fromkeys(form for form, _ in self.panels))

    @cached_property
    def rows(self) -> pd.DataFrame:
        return self.report.rows(self.probe, f"loss_{self.forms[0]}")

    def draw(self) -> Drawing:
        down, across = bands(len(self.panels), ACROSS)
        side = {1: 2.4, 2: 2.0}.get(across, 1.75)
        figure = new_figure(COLUMN if across < 2 else WIDE, 0.5 + side * down)
        grid = figure.subplots(down, across, squeeze=False)
        levels = self._levels()
        shaded: Any = None
        for number, axes, (form, name) in filled(grid, self.panels):
            shaded = self._panel(axes, form, name, levels) or shaded
            label_outer(axes, number, grid, len(self.panels), "first direction", "second direction")
            axes.set_title(wrap(name if len(self.forms) == 1 else f"{name}: {FORMS[form]}", 22, 3), loc="left")
        ticks = levels[::2]
        shade_bar(figure, shaded, grid, "loss (nats)", ticks, [f"{10**level:.2g}" for level in ticks])
        return figure

    def _levels(self) -> np.ndarray:
        """(9,) shared levels of log10 of the loss, from the lowest to a hundred times as much at most."""
        losses = pd.concat([self.report.rows(self.probe, f"loss_{form}")["value"] for form in FORMS]).dropna()
        losses = losses[losses > 0]
        low, high = float(losses.min()), float(losses.max())
        return np.linspace(math.log10(low), math.log10(max(min(high, 100 * low), 1.2 * low)), 9)

    def surface(self, form: str, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x (columns), y (rows) and Z[row][column] of one model's plane."""
        wide = self.of(name, f"loss_{form}").pivot_table(index="y", columns="x", values="value", dropna=False)
        return wide.columns.to_numpy(), wide.index.to_numpy(), wide.to_numpy()

    def near(self, form: str, name: str) -> tuple[float, float]:
        """The loss at the model, and the share of the plane within one nat of it."""
        _, _, z = self.surface(form, name)
        base = z[z.shape[0] // 2, z.shape[1] // 2]
        return float(base), float(np.mean(z < base + 1))

    def _panel(self, axes: Axes, form: str, name: str, levels: np.ndarray) -> Any:
        x, y, z = self.surface(form, name)
        with np.errstate(invalid="ignore", divide="ignore"):
            logs = np.log10(z)
        shaded = axes.contourf(x, y, logs, levels=levels, cmap=SHADES, extend="max")
        lines = axes.contour(x, y, logs, levels=levels[[2, 5]], colors=PAPER, linewidths=0.6, linestyles="solid")
        axes.clabel(lines, fmt=lambda level: f"{10**level:.2g}", fontsize=6, inline_spacing=2)
        lost = np.argwhere(~np.isfinite(z))
        axes.plot(x[lost[:, 1]], y[lost[:, 0]], "x", color=INK, ms=2.5, mew=0.5)
        axes.plot([0], [0], "+", color=PAPER, ms=6, mew=1.2)
        if form == "trajectory":
            path = self.of(name, "trajectory").sort_values("value")
            axes.plot([*path["x"], 0], [*path["y"], 0], "-o", color=LINEAGES[1][0].color, ms=2.4, mew=0, lw=0.9)
        axes.set_aspect("equal")
        axes.locator_params(nbins=3)
        return shaded

    def terms(self) -> dict[str, object]:
        return {
            "spanned_by": " or ".join(SPANNED_BY[form] for form in self.forms),
            "shown": len(self.rows),  # points of the first form's planes
            "interpolated": int(self.rows["n"].isna().sum()),  # of these points
            "path": "trajectory" in self.forms,
            "near_each": self._near_each(),
            "explained": self._explained(),
        }

    def _near_each(self) -> str:
        parts = []
        for form, name in self.panels[:3]:
            base, share = self.near(form, name)
            which = "" if len(self.forms) == 1 else f" ({FORMS[form]})"
            parts.append(f"{f'{share:.0%}' if np.isfinite(base) else 'an unknown share'} of the plane in {name}{which}")
        return ", ".join(parts)

    def _explained(self) -> str:
        """What the two axes hold of each path, beside what they would hold of a random walk."""
        held, walk = (
            self.report.rows(self.probe, metric).groupby("model")["value"].sum()
            for metric in ("trajectory_explained", "trajectory_random_walk")
        )
        known = [name for name in self.names if name in held]
        return ", ".join(f"{held[n]:.0%} of the path of {n} ({walk[n]:.0%} of a random walk)" for n in known)

    def lines(self) -> Lines:
        """The loss at the model, the largest one, and the share of the plane within a nat."""
        for form, name in self.panels:
            x, _, z = self.surface(form, name)
            base, share = self.near(form, name)
            measured = int(self.of(name, f"loss_{form}")["n"].notna().sum())
            yield {
                "model": name,
                "plane": FORMS[form],
                "loss at the model": f"{base:.4g}" if np.isfinite(base) else "not finite",
                "largest": f"{z[np.isfinite(z)].max():.3g}" if np.isfinite(z).any() else "not finite",
                "within one nat": f"{share:.0%}",
                "reach": f"{x.max():.3g}",
                "points measured": str(measured),
                "not finite": str(int((~np.isfinite(z)).sum())),
            }
