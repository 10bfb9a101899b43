# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Sharpness and its limits
#
# Time: 20 minutes, of which about a minute of computing on one CPU core. Needs: fdlab, no download.
#
# "Flat minima generalise" is an old hope. Dinh et al. 2017 showed that flatness in weight space can be made arbitrary
# without changing the function; Andriushchenko et al. 2023 found that sharpness does not correlate well with
# generalisation in modern settings, whatever its form. We see the first with our own eyes, and what is left.

# %%
"""Sharpness and its limits: the lesson's code."""

import os

import fdlab
from fdlab.checkpoints.open import open_model
from fdlab.encoders.stretch import reparametrised
from fdlab.records.metrics.names import MAPS

IMAGES = int(os.environ.get("FDLAB_LESSON_IMAGES", "64"))
STEPS = int(os.environ.get("FDLAB_LESSON_STEPS", "200"))

# %% [markdown]
# ## Dinh's argument on two numbers
#
# `f(x) = a b x` with `a b = 1`, squared error on `x = 1`, target 1: the loss is `(a b - 1)^2 / 2`, zero on the whole
# curve `a b = 1`. Its curvature across that curve is `a^2 + b^2`. **Predict first**: the curvature at (1, 1) and at
# (10, 0.1), which are the same function.

# %%
predicted = {(1.0, 1.0): 2.0, (10.0, 0.1): 2.0}

for (a, b), guess in predicted.items():
    print(f"a = {a}, b = {b}: curvature {a * a + b * b:.2f} (predicted {guess})")

# %% [markdown]
# ## Break it: a transformer does the same
#
# Queries times 4 and keys divided by 4; LayerNorms times 4 and the next layer divided by 4; a matrix inside each head.
# Every output stays. **Predict first**: which of the measures below stay under all five maps?

# %%
predicted_still = ["sharpness_adaptive"]  # of: sharpness_average, sharpness_adaptive

steps = {"run.steps": STEPS}
run = fdlab.pretrain("digits/contrastive", data="digits", out="runs/lesson-contrastive", overrides=steps)
model = open_model(str(run))
models = {"as it is": model} | {name: reparametrised(model, name) for name in MAPS}
settings = {"data": "digits", "images": IMAGES, "directions": 5, "objective": "linear-probe"}
table = fdlab.measure("sharpness", models, part="average", **settings)
wide = table.pivot_table(index="model", columns="metric", values="value", sort=False)
ratios = wide / wide.loc["as it is"]
print(ratios.round(3).to_string())
still = [name for name in ratios if bool(((ratios[name] - 1).abs() < 0.01).all())]
print("within 1 % under every map:", still or "none", "- predicted:", predicted_still)

# %% [markdown]
# Element-wise adaptive sharpness does not see rescalings of single weights, by construction. A matrix inside a head
# mixes weights, keeps the function, and moves it. No measure here is a property of the function.
#
# ## What a difference is worth
#
# Two trainings from two seeds: the same recipe, the same data. A difference between two *methods* must be larger than
# this one before it means anything.

# %%
again = fdlab.pretrain(
    "digits/contrastive", data="digits", out="runs/lesson-contrastive-1", overrides=steps | {"run.seed": 1}
)
seeds = {"seed 0": model, "seed 1": open_model(str(again))}
table = fdlab.measure("sharpness", seeds, part="average", **settings)
for row in table.itertuples():
    print(f"{row.model}: {row.metric} {row.value:.3f} ({row.low:.3f} to {row.high:.3f})")

# %% [markdown]
# ## Exercise
#
# A paper reports: "the distilled model's largest Hessian eigenvalue is 120, the teacher's 400: it is flatter." Which of
# these would you ask for before believing that distillation made it so? Set the ones that you need to True.

# %%
needed = {
    "the balanced form of both": True,
    "the loss at both models": True,
    "a student of the teacher's own architecture": True,
    "more digits of the eigenvalue": False,
}  # yours


def check(given: dict[str, bool]) -> str:
    """What is wrong with an answer, or that nothing is."""
    right = dict(zip(given, (True, True, True, False), strict=True))
    wrong = [text for text in given if given[text] != right[text]]
    if not wrong:
        return "Right: scale, level of the loss, and design each move it several-fold."
    return f"Think again about: {wrong[0]}"


print(check(needed))

# %% [markdown]
# ## What this does not show
#
# That flatness never matters: within one architecture, one training recipe and one data set it may rank models. It
# shows that a number of curvature alone cannot carry a claim about two checkpoints.
