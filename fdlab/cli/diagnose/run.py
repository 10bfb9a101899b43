"""What all verbs of this folder do: measure with one probe, print the result.

The parameters of a verb have the names of the settings that they are, so that a verb hands on all of them at once,
as ``locals()``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fdlab.cli.options import typed_command
from fdlab.cli.show import findings, number, rows, show

if TYPE_CHECKING:
    import pandas as pd


def diagnose(probe: str, options: dict[str, Any]) -> None:
    """Measures with a verb's options and prints the lines of its probe, or of attention the means as a table."""
    from fdlab.study.diagnosis import diagnose as measure

    as_json = options.pop("as_json")
    result = measure(probe, **options, command=typed_command())
    tables, lines = {}, LINES.get(probe)
    if lines is None:
        tables["Means over the last half of the blocks (95 % interval over images)"] = result["summary"]
    own = lines(result["table"]) if lines else ()
    show(result, quiet=options["quiet"], as_json=as_json, tables=tables, lines=own, first=findings(result["findings"]))


def without_defaults(options: Mapping[str, Any], **defaults: Any) -> dict[str, Any]:
    """The options but those at these defaults, which are then no part of the question that the store keeps.

    >>> without_defaults({"images": 4, "teacher": ""}, teacher="")
    {'images': 4}
    """
    return {name: value for name, value in options.items() if name not in defaults or value != defaults[name]}


def _attribution(table: pd.DataFrame) -> Iterator[str]:
    """Each model's score, its areas and gains, and its three heads of the largest effect."""
    for row in rows(table[["model", "objective"]].drop_duplicates()):
        yield f"{row.model}: score: {row.objective}"
    for row in rows(table[table["metric"].str.contains("_gain_|_area_|completeness|score_")]):
        yield f"{row.model}: {row.metric} {number(row) if row.value == row.value else 'undefined'}"
    for model, effects in table[table["metric"] == "head_effect"].groupby("model", sort=False):
        for row in rows(effects.sort_values("value", ascending=False).head(3)):
            yield f"{model}: head_effect {number(row)} of block {int(row.block) + 1} head {int(row.head) + 1}"


def _features(table: pd.DataFrame) -> Iterator[str]:
    """The numbers of each model's last block and of the whole model."""
    last = (table["depth"] == 1) | table["block"].isna()
    for row in rows(table[last & ~table["metric"].isin(["cka", "singular_value"])]):
        yield f"{row.model}: {row.metric} {number(row)}" + (f" [{row.objective}]" if row.objective else "")


def _hessian(table: pd.DataFrame) -> Iterator[str]:
    """The loss, then every number but the densities and the single minibatches."""
    yield f"Loss: {table['objective'].iloc[0]}"
    for row in rows(table[~table["metric"].isin(["spectral_mass", "max_eigenvalue"])]):
        block = f" block {int(row.block) + 1}" if str(row.block).isdigit() else ""
        yield f"{row.model}{block}: {row.metric} {number(row)}"


def _landscape(table: pd.DataFrame) -> Iterator[str]:
    """The loss, the shares of a trajectory's axes, and the range of each model's lines or planes."""
    yield f"Loss: {table['objective'].iloc[0]}"
    for row in rows(table[table["metric"].str.startswith("trajectory_")]):
        yield f"{row.model}: {row.metric} of axis {row.x:.0f}: {row.value:.1%}"
    surfaces = table[table["metric"].str.startswith(("loss_", "accuracy_"))]
    for (model, metric), points in surfaces.groupby(["model", "metric"], sort=False):
        values, measured = points["value"], points["n"].notna()
        middle = float(values[(points["x"] == 0) & points["y"].fillna(0).eq(0)].iloc[0])
        lost = int((values.isna() & measured).sum())
        yield (
            f"{model}: {metric} {middle:.4g} at x = 0, {values.min():.4g} to {values.max():.4g} over "
            f"{int(measured.sum())} points" + (f", {lost} of them not finite" if lost else "")
        )


def _sharpness(table: pd.DataFrame) -> Iterator[str]:
    """The loss, then every number but the curves; what moved under a change of weights says under which."""
    from fdlab.records.metrics.names import MAPS

    yield f"Loss: {table['objective'].iloc[0]}"
    maps = list(MAPS.values())
    for row in rows(table[table["metric"] != "noise_curve"]):
        change = f" ({maps[int(row.x) - 1]})" if row.metric.startswith("moved_") else ""
        yield f"{row.model}: {row.metric} {number(row)}{change}"


LINES = {
    "attribution": _attribution,
    "features": _features,
    "hessian": _hessian,
    "landscape": _landscape,
    "sharpness": _sharpness,
}
