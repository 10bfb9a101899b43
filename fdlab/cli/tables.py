"""Tables on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def print_table(table: pd.DataFrame, title: str = "") -> None:
    """Prints a table of text; off a terminal as wide as it needs, so that nothing is cut."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=220)
    drawn = Table(title=title or None, title_justify="left", header_style="bold")
    for column in table.columns:
        drawn.add_column(str(column).replace("late_", "").replace("_", " "))
    for row in table.astype(str).itertuples(index=False):
        drawn.add_row(*row)
    console.print(drawn)
