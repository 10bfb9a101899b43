"""``fdlab demo``: the whole study at the size of handwritten digits."""

from pathlib import Path

import typer
from typer import Option

from fdlab.cli import options
from fdlab.cli.show import show


def demo(
    out: options.Out = Path("reports/demo"),
    seed: int = Option(0, min=0, help="Seed of everything."),
    minutes: float = Option(
        5.0, help="Scales all step counts by minutes / 5, a fixed rule: equal commands give equal numbers."
    ),
    workers: int = Option(2, min=1, help="Worker processes; the numbers do not depend on it."),
    quiet: options.Quiet = False,
    as_json: bool = Option(False, "--json", help="Print the numbers as JSON."),
) -> None:
    """Train, distil, diagnose and draw on real digits: the whole study in about five minutes on two cores.

    Example: [bold]fdlab demo --minutes 5 --seed 0 -o reports/demo[/bold]
    """
    from fdlab.experiments.demo import demo as run

    command = options.typed_command()
    result = run(out, seed=seed, minutes=minutes, workers=workers, quiet=quiet, command=command)
    if not (quiet or as_json):
        for name, seconds in result["seconds"].items():
            typer.echo(f"{name}: {seconds:g} s", err=True)
    tables = {"Attention columns: means over the last half of the blocks": result["summary"]}
    show({**result, "table": result["numbers"]}, quiet=quiet, as_json=as_json, tables=tables)
