# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Loss landscapes: how a picture can mislead
#
# Time: 20 minutes, of which about a minute of computing on one CPU core. Needs: fdlab, no download.
#
# A model has thousands of weights; a picture has two axes. So one cuts: the loss along a random direction, each
# filter as long as the model's own (Li et al. 2018). We cut one small model four times, and the pictures disagree.

# %%
"""Loss landscapes: the lesson's code."""

import os

import pandas as pd

import fdlab
from fdlab.checkpoints.open import open_model
from fdlab.encoders.stretch import reparametrised

IMAGES = int(os.environ.get("FDLAB_LESSON_IMAGES", "64"))
STEPS = int(os.environ.get("FDLAB_LESSON_STEPS", "200"))
POINTS = 9


def lines(models: object, **settings: object) -> pd.DataFrame:
    """Median loss at each distance, a column a model."""
    table = fdlab.measure("landscape", models, data="digits", images=IMAGES, points=POINTS, **settings)
    table = table[table["metric"] == "loss_line"]
    return table.pivot_table(index="x", columns="model", values="value", sort=False)


steps = {"run.steps": STEPS}
run = fdlab.pretrain("digits/contrastive", data="digits", out="runs/lesson-contrastive", overrides=steps)
model = open_model(str(run))

# %% [markdown]
# ## One model, two ranges
#
# **Predict first**: the loss at the model is small. By how many nats has it risen at a distance of 0.1 filter lengths?
# And at 1, where every filter has been moved by its own length?

# %%
predicted = {0.1: 0.1, 1.0: 1.0}

for span, guess in predicted.items():
    curve = lines({"model": model}, directions=5, span=span)["model"]
    print(f"up to {span}: rises by {curve.iloc[-1] - curve.loc[0.0]:.2f} nats at the edge (predicted {guess})")

# %% [markdown]
# The same valley is a gentle bowl or a cliff, by the range of the axis alone.
#
# ## One model, single directions
#
# A published line is often one direction. The band over directions tells how much luck was in it.

# %%
table = fdlab.measure(
    "landscape", {"model": model}, data="digits", images=IMAGES, points=POINTS, directions=10, span=0.3
)
edge = table[(table["metric"] == "loss_line") & (table["x"] == table["x"].max())].iloc[0]
print(
    f"at {edge['x']:.1f}: median {edge['value']:.2f} nats, "
    f"80 % of the directions {edge['low']:.2f} to {edge['high']:.2f}"
)

# %% [markdown]
# ## Break it: the same function, another landscape
#
# Multiply each channel of every LayerNorm by its own factor and divide the layer behind it: all outputs stay.
# **Predict first**: does the picture stay, since filters are normalised?

# %%
predicted_same = True

pair = {"as it is": model, "rescaled": reparametrised(model, "channels")}
curves = lines(pair, directions=5, span=0.3)
print(curves.round(3).to_string())
rises = curves.iloc[-1] - curves.loc[0.0]
print(f"rise at the edge: {rises.round(2).to_dict()} - predicted the same: {predicted_same}")

# %% [markdown]
# ## Exercise
#
# Which of these sentences may stand under a picture of two lines? Answer with True or False.

# %%
sentences = {
    "On these images and directions, at this range, the first loss rises less.": True,
    "The first model lies in a wider basin.": False,
    "The first model will generalise better.": False,
}  # yours


def check(given: dict[str, bool]) -> str:
    """What is wrong with an answer, or that nothing is."""
    right = dict(zip(given, (True, False, False), strict=True))
    wrong = [text for text in given if given[text] != right[text]]
    return f"Think again about: {wrong[0]}" if wrong else "Right: a cut speaks of the cut."


print(check(sentences))

# %% [markdown]
# ## What this does not show
#
# Convexity, basins or connectedness off the cut; anything across objectives, data or ranges; and no cause of good
# fine-tuning. `fdlab diagnose sharpness --part control` shows for your own model which numbers move when its function
# does not.
