"""``fdlab doctor``: is what this installation measures right?"""

import typer
from typer import Option

from fdlab.cli import options


def doctor(
    probes: bool = Option(False, "--probes", help="Run every probe on cases with known answers (seconds)."),
    as_json: options.JsonTable = False,
) -> None:
    """Run the probes on cases whose answers are known and print each error against the truth.

    Exits with code 5 where an answer is wrong.

    Example: [bold]fdlab doctor --probes[/bold]
    """
    from fdlab.errors import CHECK_NOT_MET, USAGE, FdlabError

    if not probes:
        raise FdlabError("Nothing to check.", fix="Say what: fdlab doctor --probes.", code=USAGE)
    from fdlab.cli.show import print_table
    from fdlab.known_answers.doctor import known_answers

    table = known_answers()
    if as_json:
        typer.echo(table.to_json(orient="records"))
    else:
        table.insert(3, "answer", ["wrong" if wrong else "right" for wrong in table["wrong"]])
        print_table(table)
    wrong = table[table["wrong"] > 0]
    if len(wrong):
        first = wrong.iloc[0]
        raise FdlabError(
            f"{len(wrong)} of {len(table)} cases have a wrong answer.",
            f"The first: {first['probe']} {first['case']} in {first['dtype']}, {first['worst']}.",
            "Do not use this installation's numbers; report the versions of torch and fdlab with this table.",
            CHECK_NOT_MET,
        )
    if not as_json:
        typer.echo(f"All {len(table)} cases right ({int(table['checks'].sum())} numbers).")
