"""``fdlab predict``: what a classifier says of pictures."""

from __future__ import annotations

from pathlib import Path

import typer
from typer import Argument, Option

from fdlab.cli import options


def predict(
    model: str = Argument(..., help="A finished fine-tuning's folder, or SOURCE of a model with a classifier."),
    images: list[Path] = Argument(..., help="Pictures, or folders of them."),
    top: int = Option(5, min=1, help="So many classes a picture, the likeliest first."),
    csv: Path | None = Option(None, "--csv", help="Write a row a picture and class here."),
    device: options.Device = "cpu",
    as_json: options.Json = False,
) -> None:
    """Name pictures: the likeliest classes of each with the classifier's shares (its softmax, no calibrated odds).

    Example: [bold]fdlab predict runs/tuned holiday.jpg more_photos/ --top 3[/bold]
    """
    import json

    from fdlab.study.classifier import load_classifier

    classifier = load_classifier(model, device=device)
    answers = classifier.predict(images, top=top)
    if csv:
        import pandas as pd

        from fdlab.records.atomic import replacing

        rows = [
            {"image": file, "rank": rank, "class": guess.name, "share": guess.share}
            for file, guesses in answers.items()
            for rank, guess in enumerate(guesses, start=1)
        ]
        with replacing(csv) as draft:
            pd.DataFrame(rows).to_csv(draft, index=False, float_format="%.6g")
    if as_json:
        typer.echo(json.dumps({file: [guess._asdict() for guess in guesses] for file, guesses in answers.items()}))
        return
    if not classifier.named:
        typer.echo(f"Note: {model} names no classes; their numbers are shown, counted from 0.", err=True)
    for file, guesses in answers.items():
        typer.echo(f"{file}: " + ", ".join(f"{guess.name} {100 * guess.share:.1f} %" for guess in guesses))
