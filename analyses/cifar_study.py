"""The study on CIFAR-10: is it the distillation, or the student's design? Contrastive, masked and supervised models.

    python analyses/cifar_study.py                       # two cores: 3 to 4 CPU hours a seed (estimated)
    python analyses/cifar_study.py --size gpu --workers 1  # one GPU: hours; its time is not measured yet
    python analyses/cifar_study.py --report              # only the page, from what is finished
    python analyses/cifar_study.py --redraw              # only the page, from the tables of the last one

Stopped (Ctrl-C, or --minutes) and given again, it continues; what is finished is not computed again. Runs and
records lie under --work; page, figures, tables and numbers go to --out. Without --train and --test torchvision
downloads CIFAR-10 on the first call.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from dataclasses import replace
from pathlib import Path

from fdlab.errors import INTERRUPTED, FdlabError
from fdlab.experiments.others import OTHERS, write_others
from fdlab.experiments.report import rewrite_study, write_study
from fdlab.experiments.stages import run
from fdlab.experiments.two_factors import Size, Study

CPU = Size(
    name="CPU",
    train="torchvision:CIFAR10#train[:20000]",
    test="torchvision:CIFAR10#test[:4000]",
    validation=2000,
    common={"run.batch": 64, "run.precision": "float32", "run.device": "cpu", "optim.lr": 2e-3},
    model={"width": 64, "depth": 4, "heads": 4},
    steps={"contrastive": 400, "masked": 500, "supervised": 400, "distill": 400, "finetune": 120, "few": 80},
    rates=(6e-4, 2e-3, 6e-3, 2e-2),
    costs={
        "contrastive": 300,
        "masked": 150,
        "supervised": 140,
        "distill": 240,
        "finetune": 160,
        "few": 160,
        "attention": 1700,
        "features": 15000,
        "sharpness": 72000,
        "hessian": 480000,
    },
)
# ViT-Ti/4 on all images: 100 epochs of pre-training and of distilling, 30 of fine-tuning. Nothing of it is tuned.
GPU = Size(
    name="GPU",
    train="torchvision:CIFAR10#train",
    test="torchvision:CIFAR10#test",
    validation=5000,
    common={"run.device": "auto"},
    steps={**dict.fromkeys(("contrastive", "masked", "supervised", "distill"), 4900), "finetune": 2640, "few": 600},
    rates=(3e-4, 1e-3, 3e-3, 1e-2),
    few=(50, 500),
    images={"attention": 1024, "features": 4000, "hessian": 1024, "sharpness": 1024},
)
SIZES = {"cpu": CPU, "gpu": GPU}
DATA = "CIFAR-10, 32 px"
LIMITS = {
    "cpu": (
        "Models of 0.2 million weights, trained for minutes on a CPU: the paper's have 86 million and 300 epochs of "
        "ImageNet. What is seen here holds for this size, and what is not seen may be there at another.",
        "Three seeds see large effects only; nothing is called absent.",
    ),
    "gpu": ("ViT-Ti on 32-pixel images: what is seen here holds for this size.",),
}
COMMON_LIMITS = (
    "One contrastive method (SimCLR), one masked one (SimMIM), one budget; neither was tuned for its own best.",
    "All pre-training shares one learning rate: a method may be disadvantaged by it.",
    "The student's design is three things at once, not separated here: relative bias, layer scale, and the factor 10 "
    "on the bias, which is ours (the paper's is 1).",
    "A distilled model has had its teacher's training and its own, with other views and drop path 0.1: 'distillation' "
    "holds all of that.",
    "lr_width at the edge of the grid is a lower bound; such widths enter the effects as they are.",
)


def stop_after(minutes: float) -> None:
    """Ends the study in an orderly way, as Ctrl-C does."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)


def main() -> None:
    """Runs what is missing of the study, then writes its report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--seeds", default="0,1,2", help="by commas")
    parser.add_argument("--work", type=Path, default=Path("runs/cifar"))
    parser.add_argument("--out", type=Path, help="by default reports/cifar, at GPU size reports/cifar-gpu")
    parser.add_argument("--train", help="training images, e.g. train.parquet[:20000]")
    parser.add_argument("--test", help="test images, e.g. test.parquet[:4000]")
    parser.add_argument("--data", default=DATA, help="what the images are, in words, for the page")
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time")
    parser.add_argument("--minutes", type=float, help="stop after so long, to be continued")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--redraw", action="store_true", help="train and read nothing but the report's own tables")
    parser.add_argument("--others", help="cohort file of models that others trained: a section of their own")
    parser.add_argument("--others-data", help="labelled images for these, of which they were trained on none")
    given = parser.parse_args()
    size, seeds = SIZES[given.size], [int(seed) for seed in given.seeds.split(",") if seed.strip().isdigit()]
    size = replace(size, train=given.train or size.train, test=given.test or size.test)
    study = Study(given.work / given.size, size, seeds)
    out = given.out or Path("reports/cifar" if given.size == "cpu" else f"reports/cifar-{given.size}")
    command = shlex.join(["python", "analyses/cifar_study.py", *sys.argv[1:]]) if sys.argv[1:] else "make study"
    if given.minutes:
        stop_after(given.minutes)
    if bool(given.others) != bool(given.others_data):
        parser.error("--others and --others-data belong together.")
    try:
        if given.redraw:
            print(rewrite_study(out)["page"])
            return
        if not given.report:
            run(study, workers=given.workers)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if given.others:
            write_others(out / OTHERS, given.others, given.others_data, command)
        limits = (*LIMITS[given.size], *COMMON_LIMITS)
        print(write_study(out, study, command=command, data=given.data, limits=limits)["page"])
    except KeyboardInterrupt:
        print("Stopped. Give the same command again to continue.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except FdlabError as error:
        print(error, file=sys.stderr)
        sys.exit(error.code)


if __name__ == "__main__":
    main()
