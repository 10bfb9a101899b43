"""``fdlab figures``: the figures of a report again, from its table alone, at the widths of a venue."""

from pathlib import Path

import typer
from typer import Argument, Option

from fdlab.cli import options


def figures(
    figures: list[str] | None = Argument(None, help="Figure ids; without any, all that the table has."),
    source: Path = Option(Path("reports/demo"), "--from", help="A report's folder, or a table.csv."),
    venue: str = Option("page", help="Column widths: page, neurips, icml, cvpr, slides."),
    kinds: str = Option("pdf,svg,png", "--format", help="Any of pdf, svg, png, by commas."),
    out: Path | None = Option(None, "-o", "--out", help="Folder (default: figures-VENUE in the report)."),
    list_: bool = Option(False, "--list", help="Only name the figures that the table has."),
    quiet: bool = Option(False, "--quiet", help="Print the written files only."),
) -> None:
    """Figures for a paper or for slides, with their captions; nothing is computed.

    Widths are exact, fonts are embedded as Type 42, the same table gives the same bytes, and every file says where
    it comes from: fdlab explain FILE.

    Example: [bold]fdlab figures attention_distance --from reports/mine --venue icml --format pdf[/bold]
    """
    from fdlab.report.figures import available, figure_of, write_figures
    from fdlab.report.folder import read_report

    report = read_report(source)
    if list_:
        for figure in available(report):
            typer.echo(f"{figure}: {figure_of(figure, report).title}")
        return
    base = source.parent if source.suffix == ".csv" else source
    folder = out or base / ("figures" if venue == "page" else f"figures-{venue}")
    formats = options.by_commas(kinds.lower())
    written = write_figures(folder, report, figures or None, venue=venue, kinds=formats)
    for path in (path for paths in written.values() for path in paths):
        typer.echo(str(path))
    if not written and not quiet:
        typer.echo("The table has no rows for any figure.", err=True)
