# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # A tour: open, inspect, measure, compare, read
#
# Time: 15 minutes, of which about a minute of computing on one CPU core. Needs: fdlab, no download.
#
# fdlab asks why some pre-trained vision transformers fine-tune better than others. This is the whole way once, on two
# models that train in seconds: one contrastive, one by masked modelling, on handwritten digits. The other lessons each
# take one measure apart.

# %%
"""A tour of fdlab: the lesson's code."""

import math
import os

import fdlab
from fdlab.checkpoints.inspection import facts
from fdlab.data.sources import open_data
from fdlab.records.intervals import paired_difference_interval
from fdlab.report.alerts import alerts
from fdlab.report.folder import read_report
from fdlab.study.comparison import compare

IMAGES = int(os.environ.get("FDLAB_LESSON_IMAGES", "64"))
STEPS = int(os.environ.get("FDLAB_LESSON_STEPS", "120"))

# %% [markdown]
# ## Open
#
# Anything that is a model opens by one name: a published file, a run's folder, `timm:NAME`, and `random:` before it for
# the same network before its first step. Images of 24 px, patches of 4 px, no class token, 4 heads.
# **Predict first**: the shape of one block's attention maps for two images.

# %%
predicted_shape = (2, 1, 24, 24)  # images, heads, queries, keys

runs = {
    name: fdlab.pretrain(f"digits/{name}", data="digits", out=f"runs/tour-{name}", overrides={"run.steps": STEPS})
    for name in ("contrastive", "masked")
}
encoder = fdlab.open_model(str(runs["contrastive"]))
images, labels = open_data("digits#test").stack(range(2), 24)  # (2, 3, 24, 24) in [0, 1]
maps = encoder.attention(encoder.normalise(images), blocks=(0,))[0]
print("attention of a block:", tuple(maps.shape), "- predicted:", predicted_shape)
print("each query's weights sum to", round(maps[0, 0, 0].sum().item(), 6))

# %% [markdown]
# ## Inspect
#
# What fdlab understood of a checkpoint, and what it had to assume: `fdlab inspect MODEL` in the terminal. An assumption
# that is wrong makes every number below wrong, so this comes first.

# %%
known = facts(encoder)
for name in ("family", "depth", "width", "heads", "heads_from", "grid", "prefix_tokens", "mean", "taken", "assumed"):
    print(f"{name:<14} {known[name] or 'none'}")

# %% [markdown]
# ## Measure
#
# One probe, one model, the images chosen by the seed: a table with one row a number, each with an interval over images.
# **Predict first**: how far do the heads of the contrastive model look on average, in pixels of a 24 px image?

# %%
predicted_px = 5.0

table = fdlab.measure("attention", {"contrastive": str(runs["contrastive"])}, data="digits#test", images=IMAGES)
distance = table[(table["metric"] == "distance") & table["head"].notna()]
print(distance[["block", "head", "value", "low", "high", "n", "unit"]].head(4).round(2).to_string(index=False))
uniform_px = table.attrs["record"]["contrastive"].manifest["uniform_distance_px"]
print(f"mean {distance['value'].mean():.1f} px (predicted {predicted_px:g} px), uniform attention {uniform_px:.1f} px")

# %% [markdown]
# A number alone says little: near the uniform line a head may look everywhere. `fdlab explain distance` has formula,
# range, and what it cannot say; lesson 01 breaks it.
#
# ## Compare
#
# Several models on the *same* images: what all of them share cancels in the differences. An untrained start of the
# first model is added by itself, as the control. **Predict first**: whose attention is broader (higher entropy)?

# %%
predicted_broader = "contrastive"  # or "masked"

models = [f"{name}={run}" for name, run in runs.items()]
report = compare(models, "digits#test", "runs/tour-report", probes=("attention",), images=IMAGES, quiet=True)
print(report["summary"].iloc[:, :3].to_string(index=False))
pairs = report["table"]
change = pairs[(pairs["reference"] == "contrastive") & (pairs["model"] == "masked")].set_index("metric")
change = change[change["block"].isna() & change["head"].isna()]
for metric in ("distance", "entropy", "head_similarity"):
    row = change.loc[metric]
    print(f"masked minus contrastive, {metric}: {row['value']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})")
broader = "masked" if change.loc["entropy", "value"] > 0 else "contrastive"
print(f"broader: {broader} - predicted: {predicted_broader}")

# %% [markdown]
# ## Read the page
#
# The report is one file, without a network: open it in a browser. Verdicts and alerts stand first, then a section for
# each figure with a caption in four sentences - what it is, how to read it, what it shows here, what not to conclude -
# and tabs for numbers, method and the command that made it. The alerts follow from the table by fixed limits:

# %%
print("open:", report["page"])
for sentence in alerts(read_report(report["page"].parent)):
    print("alert:", sentence)

# %% [markdown]
# ## Break it
#
# Two *untrained* models that differ in nothing but the seed of their weights, compared on the same images.
# **Predict first**: in how many of five measures does the 95 % interval of the difference leave out 0?

# %%
predicted_seen = 0

METRICS = ("distance", "entropy", "head_similarity", "r2_relative", "r2_absolute")
blank = {f"seed {seed}": fdlab.open_model(f"random:{runs['contrastive']}", seed=seed) for seed in (0, 1)}
found = fdlab.measure("attention", blank, data="digits#test", images=IMAGES, metrics=METRICS).attrs["record"]
seen = 0
for metric in METRICS:
    first, second = (found[label].arrays[metric].reshape(IMAGES, -1).mean(1) for label in blank)
    value, low, high, _ = paired_difference_interval(first, second)
    seen += low > 0 or high < 0
    print(f"{metric}: {value:+.4f} ({low:+.4f} to {high:+.4f})")
print(f"the interval leaves out 0 in {seen} of {len(METRICS)}, predicted {predicted_seen}")

# %% [markdown]
# The intervals are right, for what they are about: *these two models* on other images. They say nothing about two other
# seeds. Whoever compares trainings needs seeds as the unit (lessons 10 and 11).
#
# ## Exercise
#
# Write what may be said of a difference, given its value and interval: "more", "less", "not told apart", or "no
# interval" where its ends are not known.


# %%
def own_words(value: float, low: float, high: float) -> str:
    """Yours. This one is a solution; write another."""
    if math.isnan(low) or math.isnan(high):
        return "no interval"
    if low <= 0 <= high:
        return "not told apart"
    return "more" if value > 0 else "less"


def check() -> str:
    """What is wrong with the words, or that nothing is."""
    nan = float("nan")
    cases = {
        (0.3, 0.1, 0.5): "more",
        (-0.3, -0.5, -0.1): "less",
        (0.3, -0.1, 0.7): "not told apart",
        (0.0, 0.0, 0.0): "not told apart",  # a model compared with itself
        (0.3, nan, nan): "no interval",  # one seed
    }
    for numbers, right in cases.items():
        if own_words(*numbers) != right:
            return f"{numbers}: {own_words(*numbers)!r}, but it is {right!r}."
    return "Right."


print(check())

# %% [markdown]
# ## What this does not show
#
# Which of the two models fine-tunes better: nothing here was fine-tuned. And two trainings of seconds on digits say
# nothing about contrastive learning and masked modelling at large.
