"""The options that several verbs share, as types with their help text; a verb's own options stand in its file.

``device: Device = "cpu"`` is the option ``--device`` with its help and the default ``cpu``.
"""

import shlex
import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

# What is measured, and on which images.
Models = Annotated[list[str], Argument(help="SOURCE or label=SOURCE, several at once.")]
Data = Annotated[str, Option("--data", help="digits, photos, locality:ALPHA, a folder, file.parquet.")]
LossData = Annotated[str, Option("--data", help="Labelled images; distill and mim need no labels.")]
LossImages = Annotated[int, Option(min=2, help="How many images; the loss is their mean.")]
More = Annotated[list[Path] | None, Option("--with", help="More folders or tables of these models.")]

# The loss that hessian, landscape and sharpness look at.
Objective = Annotated[
    str,
    Option(help='linear-probe, classifier ("@0.5": logits scaled to this loss), fine-tuning, distill or mim.'),
]
Teacher = Annotated[str, Option(help="SOURCE of the teacher, for distill.")]
Parameters = Annotated[str, Option(help="encoder, or all (the head too).")]

# What a file does not say of its model.
Heads = Annotated[int | None, Option(help="Number of heads, where the file does not hold it.")]
ImageSize = Annotated[str | None, Option(help="Pixels, 224 or HxW; position tables are resized as the family does.")]
PrefixTokens = Annotated[int | None, Option(min=0, help="Class, distillation and register tokens before the patches.")]
Channels = Annotated[int | None, Option(min=1, help="The model's input channels: grey images, repeated so often.")]
Activation = Annotated[str | None, Option(help="gelu, quick_gelu, ... where the file does not hold it.")]

# What files do not say of their images.
ValueRange = Annotated[
    tuple[float, float] | None,
    Option("--value-range", metavar="LOW HIGH", help="Black and white of images of more than 8 bits (default: all)."),
]
LabelTable = Annotated[
    str | None, Option("--labels", metavar="CSV", help="Classes of the images of --data: a row path,label an image.")
]

# How the work is done.
RECIPE = "Recipe: a packaged name (fdlab recipes) or a TOML file."
Recipe = Annotated[str, Argument(help=RECIPE)]
Batch = Annotated[int, Option(min=1, help="Images in one forward pass.")]
MicroBatch = Annotated[int, Option("--micro-batch", min=1, help="Images at once: memory, not the result.")]
Control = Annotated[bool, Option(help="Add the first model's untrained start as a control.")]
Device = Annotated[str, Option(help="cpu, cuda, mps or auto.")]
FirstSeed = Annotated[int, Option(min=0, help="The first seed.")]
Fresh = Annotated[bool, Option("--fresh", help="Measure again what the store already holds.")]
Workers = Annotated[int, Option(min=1, help="Trainings at a time, one thread each; no number depends on it.")]

# Where the results go.
Out = Annotated[Path, Option("-o", "--out", help="Folder of the report.")]
Quiet = Annotated[bool, Option("--quiet", help="No progress; print the page's path only.")]
PathOnly = Annotated[bool, Option("--quiet", help="Print the page's path only.")]
NoProgress = Annotated[bool, Option("--quiet", help="No progress.")]
Json = Annotated[bool, Option("--json", help="Print JSON.")]
JsonTable = Annotated[bool, Option("--json", help="Print the table as JSON.")]


def by_commas(text: str) -> list[str]:
    """The parts of a list that was written with commas.

    >>> by_commas("attention, features,")
    ['attention', 'features']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def typed_command() -> str:
    """The command line as it was typed, for the page that it makes."""
    return shlex.join(["fdlab", *sys.argv[1:]])
