"""``fdlab rank``: which cheap measures rank models as their fine-tuning does."""

from pathlib import Path

from typer import Argument, Option

from fdlab.cli import options
from fdlab.cli.show import show


def rank(
    source: Path = Argument(..., help="A folder that compare wrote, or a table.csv."),
    others: options.More = None,
    score: str = Option("", help="The score (default: the cohort's score, else best_accuracy, accuracy)."),
    measures: str = Option("", help="By commas: these alone, chosen in advance (default: all)."),
    cohort: Path | None = Option(None, help="Scores and lineages (default: as compare kept them)."),
    blocks: str = Option("last half", help="Blocks of measures by block: last quarter, first half, all, ..."),
    untrained: bool = Option(False, "--untrained", help="Keep untrained models; nearly all measures tell them."),
    out: Path | None = Option(None, "-o", "--out", help="Folder of the report (default: SOURCE/rank)."),
    quiet: options.PathOnly = False,
    as_json: options.JsonTable = False,
) -> None:
    """Kendall's tau-b between every measure and the fine-tuning score, over lineages and within them.

    A lineage is the unit: a model, its seeds and all that was distilled from it (pair_of), or what the cohort gives
    one lineage = "NAME". Five are the fewest that can say anything, and only of a measure named in advance
    (--measures). Nothing is measured.

    Example: [bold]fdlab rank reports/mine --with trainability/table.csv --measures distance_spread,knn[/bold]
    """
    from fdlab.study.ranking import rank as run
    from fdlab.study.ranking import readable

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
    ranking = result["ranking"]
    tables = {f"Rank correlation with {ranking.score}": readable(ranking)}
    show(result, quiet=quiet, as_json=as_json, tables=tables, lines=ranking.notes)
