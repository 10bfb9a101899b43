"""``fdlab predict``: which cheap measures rank models as their fine-tuning does."""

from pathlib import Path

from typer import Argument, Option

from fdlab.cli import options
from fdlab.cli.show import show


def predict(
    source: Path = Argument(..., help="A folder that compare wrote, or a table.csv."),
    others: options.More = None,
    score: str = Option("", help="The score (default: the cohort's score, else best_accuracy, accuracy)."),
    measures: str = Option("", help="By commas: these alone, chosen in advance (default: all)."),
    cohort: Path | None = Option(None, help="Scores and families (default: as compare kept them)."),
    blocks: str = Option("last half", help="Blocks of measures by block: last quarter, first half, all, ..."),
    untrained: bool = Option(False, "--untrained", help="Keep untrained models; nearly all measures tell them."),
    out: Path | None = Option(None, "-o", "--out", help="Folder of the report (default: SOURCE/predict)."),
    quiet: options.PathOnly = False,
    as_json: options.JsonTable = False,
) -> None:
    """Kendall's tau-b between every measure and the fine-tuning score, with interval, exact p, and without one family.

    One model (all its seeds) is one pair of values. Five models are the fewest that can say anything, and only of a
    measure named in advance (--measures). Nothing is measured.

    Example: [bold]fdlab predict reports/mine --with trainability/table.csv --measures distance_spread,knn[/bold]
    """
    from fdlab.study.prediction import predict as run
    from fdlab.study.prediction import readable

    result = run(
        source,
        others or (),
        cohort=cohort,
        score=score,
        measures=options.by_commas(measures),
        blocks=blocks,
        untrained=untrained,
        out=out,
        command=options.typed_command(),
    )
    prediction = result["prediction"]
    tables = {f"Rank correlation with {prediction.score}": readable(prediction)}
    show(result, quiet=quiet, as_json=as_json, tables=tables, lines=prediction.notes)
