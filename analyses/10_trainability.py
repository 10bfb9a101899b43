# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Trainability: does a model fine-tune well, or was its learning rate lucky?
#
# Time: 25 minutes, of which one or two of computing on one CPU core. Needs: fdlab, no download.
#
# "Optimisation friendliness" can be read off pictures, or measured: fine-tune from each model over a grid of learning
# rates and several seeds, with one budget for all. Three numbers then: the best accuracy, `lr_width` (over how many
# decades of the rate the accuracy stays within one point of the best) and `steps_to_loss`.

# %%
"""Trainability: the lesson's code."""

import os
from pathlib import Path

import numpy as np

import fdlab
from fdlab.measures.trainability import lr_width
from fdlab.study.rate_search import Search, Start

IMAGES = int(os.environ.get("FDLAB_LESSON_IMAGES", "64"))
STEPS = int(os.environ.get("FDLAB_LESSON_STEPS", "200"))

# %% [markdown]
# ## Known answers
#
# Four rates, a decade apart, and made-up accuracies. Between grid points the accuracy is taken as linear in the
# logarithm of the rate. **Predict first**: the widths, in decades.

# %%
GRID = (1e-4, 1e-3, 1e-2, 1e-1)
CURVES = {
    "a plateau": (0.50, 0.90, 0.90, 0.50),
    "a peak": (0.50, 0.88, 0.90, 0.50),
    "still rising": (0.50, 0.70, 0.80, 0.90),
}
predicted = {"a plateau": 0.0, "a peak": 0.0, "still rising": 0.0}  # your numbers

for name, accuracies in CURVES.items():
    width = lr_width(GRID, accuracies)
    edge = " (at the grid's edge: a lower bound)" if width.open_below or width.open_above else ""
    print(f"{name}: {width.decades:.2f} decades{edge}, predicted {predicted[name]}")

# %% [markdown]
# ## Who chooses the rate?
#
# Say all four rates are equally good, 90 % each, and 400 test images judge them. **Predict first**: what is reported on
# average, if the rate is chosen on those same test images? (One training's accuracy scatters by 1.5 points.)

# %%
predicted_reported = 90.0  # per cent

draws = np.random.default_rng(0).binomial(400, 0.9, size=(20000, 4)) / 400
print(f"chosen and judged on test images: {100 * draws.max(1).mean():.1f} % (predicted {predicted_reported} %)")
print(f"chosen elsewhere, judged on test images: {100 * draws[:, 0].mean():.1f} %")

# %% [markdown]
# More than a point from nothing, and more for whoever tries more rates. fdlab chooses on validation images.
#
# ## Measure it
#
# A small contrastive model and the same network before its first step, fine-tuned with 20 labels a class at three rates
# and three seeds: 18 trainings. The seed also draws the labelled images. In the terminal this is
# `fdlab trainability after=RUN before=random:RUN --rates 1e-3,4e-3,1.6e-2`, with a page and several processes.
#
# **Predict first**: which has the higher best accuracy, which the wider range of good rates?

# %%
predicted_best, predicted_wide = "after", "after"  # or "before"

RATES, SEEDS = (1e-3, 4e-3, 1.6e-2), (0, 1, 2)
run = fdlab.pretrain("digits/contrastive", data="digits", out="runs/lesson-contrastive", overrides={"run.steps": STEPS})
sources = {"after": (str(run), "contrastive"), "before": (f"random:{run}", "random")}
starts = [Start(name, source, seed, family) for name, (source, family) in sources.items() for seed in SEEDS]
budget = {
    "run.steps": min(STEPS, 40),
    "run.log_every": 2,
    "data.validation": 4 * IMAGES,
    "data.test": f"digits#test[:{4 * IMAGES}]",
}
search = Search(Path("runs/lesson-trainability"), RATES)
grid = search.jobs(starts, "digits/finetune", budget)
for number, (name, job) in enumerate(grid.items(), start=1):
    facts = job.call(**job.keywords)  # trains, or reads what was trained before
    print(
        f"{number}/{len(grid)} {name}: {100 * facts['correct'] / facts['count']:.1f} %"
        if facts
        else f"{name}: diverged"
    )
table, notes = search.collect(starts)

# %% [markdown]
# The means over seeds, with t-intervals: three seeds make wide ones, and that is what three seeds know.

# %%
over_seeds = table[table["seed"].isna()]
for metric in ("best_accuracy", "lr_width", "steps_to_loss"):
    for row in over_seeds[over_seeds["metric"] == metric].itertuples():
        print(f"{metric}, {row.model}: {row.value:.3f} ({row.low:.3f} to {row.high:.3f}), {row.n:.0f} seeds")
for note in notes:
    print("note:", note)
best = over_seeds[over_seeds["metric"] == "best_accuracy"].set_index("model")["value"]
wide = over_seeds[over_seeds["metric"] == "lr_width"].set_index("model")["value"]
print(f"higher: {best.idxmax()} (predicted {predicted_best}), wider: {wide.idxmax()} (predicted {predicted_wide})")

# %% [markdown]
# Now forget the grid and take one rate and one seed, as many comparisons do. How often does the order turn around?

# %%
single = table[(table["metric"] == "accuracy") & table["seed"].notna()]
single = single.pivot_table(index=["x", "seed"], columns="model", values="value")
print((100 * single).round(1).to_string())
ahead = int((single["before"] > single["after"]).sum())
print(f"'before' is ahead in {ahead} of {len(single)} pairs of one rate and seed")
apart = 100 * (single["after"].max() - single["after"].min())
print(f"two trainings from 'after' differ by up to {apart:.1f} points, by rate and seed alone")

# %% [markdown]
# ## Break it
#
# **Predict first**: the width of a model that learns nothing at any rate.

# %%
predicted_nothing = 0.0

nothing = lr_width(GRID, (0.10, 0.10, 0.10, 0.10))
print(f"10 % at every rate: {nothing.decades:.1f} decades, predicted {predicted_nothing}")

# %% [markdown]
# The widest of all. A width means something only beside the level: "within one point of its own best" asks nothing of
# the best. The same holds for `steps_to_loss`, whose mark is the worst model's final loss.
#
# ## Exercise
#
# Accuracies at the four rates of `GRID` whose best is 0.90 and whose `lr_width` lies between 1.4 and 1.6 decades, with
# the range ending inside the grid on both sides.


# %%
def own_accuracies() -> tuple[float, ...]:
    """Yours: four shares. These are a solution; write others."""
    return (0.88, 0.90, 0.90, 0.50)


def check(given: tuple[float, ...]) -> str:
    """What is wrong with an answer, or that nothing is."""
    if len(given) != len(GRID) or max(given) != 0.90 or min(given) < 0:
        return "Four shares are needed, the largest 0.90."
    width = lr_width(GRID, given)
    if width.open_below or width.open_above:
        return "The range reaches the grid's edge: its width is a lower bound only."
    return "Right." if 1.4 <= width.decades <= 1.6 else f"The width is {width.decades:.2f} decades."


print(check(own_accuracies()))

# %% [markdown]
# ## What this does not show
#
# What a longer budget would do: a model that is ahead after 40 steps need not be ahead after 4,000, and the best rate
# moves with the budget. Three seeds do not tell small differences apart, and an untrained network is the easiest
# opponent there is.
