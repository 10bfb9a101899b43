"""Makes reports/curvature: spectra, landscapes and sharpness of three small models. About ten minutes on one core.

    python analyses/curvature_gallery.py [--steps 300] [--images 40] [--work runs/curvature]
    python analyses/curvature_gallery.py --redraw   # measures nothing

Stopped and given again, it continues. Only the page, the figures and the tables are committed, no weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import fdlab
from fdlab.records.atomic import write_text
from fdlab.records.table import join
from fdlab.report.figures import available, figure_of
from fdlab.report.folder import read_report
from fdlab.report.report import Report
from fdlab.study.diagnosis import Gathered, facts_of, gather
from fdlab.study.publish import write_report

DATA = "digits#test"
TITLE = "Curvature of three small models on handwritten digits"
QUESTION = "How sharply is the loss of contrastive, masked and distilled models curved, and what of it is scale?"
LIMITS = (
    "Three trainings of a few hundred steps on 8x8 digits, one seed: this shows the tools, not the paper's claim.",
    "The distilled model has the paper's student design, so its difference to the teacher is not distillation's alone.",
)


def models(work: Path, steps: int) -> dict[str, str]:
    """The three models, trained where they are not there yet."""
    overrides: dict[str, Any] = {"run.steps": steps}
    found = {}
    for label, recipe in (("contrastive teacher", "digits/contrastive"), ("masked modelling", "digits/masked")):
        out = work / recipe.split("/")[1]
        found[label] = str(fdlab.pretrain(recipe, data="digits", out=out, overrides=overrides))
    more = overrides | {"distill.teacher": found["contrastive teacher"]}
    found["distilled, paper's student"] = str(
        fdlab.distill("digits/distill", data="digits", out=work / "distill", overrides=more)
    )
    return found


def measured(sources: dict[str, str], images: int) -> list[Gathered]:
    """Every curvature probe; the control of other weights and the same function for the teacher alone."""
    common: dict[str, Any] = {"images": images, "quiet": False, "random_control": False}
    teacher = {"contrastive teacher": sources["contrastive teacher"]}
    return [
        gather("hessian", sources, DATA, parts=("whole", "balanced"), probes=2, **common),
        gather("sharpness", sources, DATA, parts=("average", "worst", "noise"), directions=12, steps=12, **common),
        gather("landscape", sources, DATA, what="line", span=0.5, **common),
        gather("landscape", sources, DATA, what="plane", span=0.5, points=25, adaptive=True, **common),
        gather("sharpness", teacher, DATA, parts=("control",), **common),
    ]


def readme(report: Report) -> str:
    """The gallery for those who read it without a browser."""
    lines = [f"# {TITLE}", "", QUESTION, "", "Made by `make reports`; the whole page is `index.html`.", ""]
    for figure in available(report):
        subject = figure_of(figure, report)
        lines += [f"## {subject.title}", "", f"![{subject.title}](figures/{figure}.png)", ""]
        lines += [" ".join(subject.caption()), ""]
    return "\n".join([*lines, "## What this cannot show", "", *(f"- {limit}" for limit in LIMITS)]) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--work", type=Path, default=Path("runs/curvature"))
    parser.add_argument("--out", type=Path, default=Path("reports/curvature"))
    parser.add_argument("--redraw", action="store_true", help="measure nothing: page and README from the last table")
    given = parser.parse_args()
    if given.redraw:
        report = read_report(given.out)
        write_text(given.out / "README.md", readme(report))
        print(write_report(given.out, report, again=True))
        sys.exit()
    sources = models(given.work, given.steps)
    found = measured(sources, given.images)
    table = join(one.table for one in found)
    manifests = {label: record.manifest for label, record in found[0].records.items()}
    facts = facts_of("hessian", DATA, 0, manifests) | {"title": TITLE, "question": QUESTION, "limits": list(LIMITS)}
    facts |= {"command": "make reports", "notes": [], "order": list(sources)}
    report = Report(table, facts)
    write_text(given.out / "README.md", readme(report))
    print(write_report(given.out, report))
