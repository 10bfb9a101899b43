"""``fdlab explore``: the attention of every query, drawn in a browser."""

from pathlib import Path

import typer
from typer import Option

from fdlab.cli import options
from fdlab.cli.given import given


@given(models="models", data=("data",))
def explore(
    models: options.Models,
    data: options.Data = "photos",
    images: int = Option(4, min=1, help="How many images, drawn by the seed."),
    blocks: str = Option("", help="Which blocks, counted from 1, by commas (default: all)."),
    max_mb: float = Option(10.0, min=0.2, help="Megabytes of the page; what does not fit is left out and said."),
    exact: bool = Option(False, "--exact", help="Half the errors of what is drawn, 1.3 times the bytes."),
    out: Path = Option(Path("reports/explore"), "-o", "--out", help="Folder, or a file that ends in .html."),
    seed: int = Option(0, min=0, help="Chooses the images."),
    device: options.Device = "cpu",
    teach: bool = Option(False, "--teach", help="Three questions to predict first."),
    quiet: options.Quiet = False,
) -> None:
    """One HTML file: point at a patch and see where every head looks; one to four models side by side.

    Example: [bold]fdlab explore teacher=dino.pth student=runs/fd --data my_photos/ -o reports/look[/bold]
    """
    from fdlab.errors import USAGE, FdlabError
    from fdlab.study.explore import explore as run

    try:
        chosen = [int(part) for part in options.by_commas(blocks)] or None
    except ValueError:
        raise FdlabError(f"--blocks {blocks} is no list of numbers.", fix="Give --blocks 1,6,12.", code=USAGE) from None
    made = run(
        models, data, out, images=images, blocks=chosen, max_mb=max_mb, exact=exact, seed=seed, device=device,
        teach=teach, quiet=quiet, command=options.typed_command(),
    )  # fmt: skip
    for note in made.notes if not quiet else ():
        typer.echo(note, err=True)
    typer.echo(str(made.path))
