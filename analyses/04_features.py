# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Features: rank, frequency, likeness of blocks
#
# Time: 15 minutes, of which about a minute of computing on one CPU core. Needs: fdlab, no download.
#
# Attention is what a model does; features are what comes out. Three questions are asked of each block: in how many
# directions do its tokens spread (effective rank), how alike are the tokens of one image (token similarity), and how
# alike are two blocks' features over the same images (linear CKA)?

# %%
"""Features: the lesson's code."""

import os

import numpy as np
import torch

import fdlab
from fdlab.measures.features import cka, effective_rank

IMAGES = int(os.environ.get("FDLAB_LESSON_IMAGES", "96"))
STEPS = int(os.environ.get("FDLAB_LESSON_STEPS", "200"))

# %% [markdown]
# ## Known answers
#
# **Predict first**: the effective rank of points that fill 5 of 20 dimensions alike; the CKA of features with the same
# features rotated; the CKA of two sets that have nothing to do with each other.

# %%
predicted = {"rank": 20.0, "rotated": 0.5, "unrelated": 0.5}  # your numbers

draw = torch.Generator().manual_seed(0)
five = torch.zeros(4000, 20, dtype=torch.float64)
five[:, :5] = torch.randn(4000, 5, generator=draw, dtype=torch.float64)
features = torch.randn(200, 20, generator=draw, dtype=torch.float64)
rotation = torch.linalg.qr(torch.randn(20, 20, generator=draw, dtype=torch.float64))[0]
other = torch.randn(200, 20, generator=draw, dtype=torch.float64)
answers = {
    "rank": float(effective_rank(torch.linalg.svdvals(five))),
    "rotated": float(cka(features, features @ rotation)),
    "unrelated": float(cka(features, other)),
}
for name, value in answers.items():
    print(f"{name}: {value:.2f} (predicted {predicted[name]})")

# %% [markdown]
# CKA does not see rotations and scales. The unbiased form is near 0 for unrelated features; the biased one would be
# about width / images, which for a ViT-B and 256 images is most of the answer.
#
# ## A trained model and its start
#
# **Predict first**: are the tokens of one image more alike before or after contrastive training?

# %%
predicted_alike = "after"  # or "before"

run = fdlab.pretrain("digits/contrastive", data="digits", out="runs/lesson-contrastive", overrides={"run.steps": STEPS})
models = {"after": str(run), "before": f"random:{run}"}
table = fdlab.measure("features", models, data="digits", images=IMAGES)
wanted = ["effective_rank", "token_similarity", "high_frequency"]
shown = table[table["metric"].isin(wanted)].pivot_table(index=["model", "block"], columns="metric", values="value")
print(shown.round(2).to_string())
last = shown["token_similarity"].groupby("model").last()
print("tokens more alike:", last.idxmax(), "- predicted:", predicted_alike)

# %% [markdown]
# ## Break it
#
# Add one constant vector to every token. Nothing that depends on differences between tokens changes, and yet:

# %%
tokens = torch.randn(8, 36, 64, generator=draw, dtype=torch.float64)


def alike(these: torch.Tensor) -> float:
    """Mean cosine between the tokens of an image."""
    unit = torch.nn.functional.normalize(these, dim=-1)
    return float((unit @ unit.transpose(1, 2)).mean())


print(f"token similarity: {alike(tokens):.2f} before, {alike(tokens + 3.0):.2f} after a constant was added")

# %% [markdown]
# ## Exercise
#
# Features of 100 images, width 50, whose effective rank is between 9 and 11.


# %%
def own_features() -> np.ndarray:
    """Yours: (100, 50). This one is a solution; write another."""
    return np.random.default_rng(0).normal(size=(100, 10)) @ np.eye(10, 50)


def check(given: np.ndarray) -> str:
    """What is wrong with an answer, or that nothing is."""
    if given.shape != (100, 50):
        return f"The shape is {given.shape}, not (100, 50)."
    rank = float(effective_rank(torch.linalg.svdvals(torch.tensor(given, dtype=torch.float64))))
    return "Right." if 9 <= rank <= 11 else f"The effective rank is {rank:.1f}: spread over more or fewer directions."


print(check(own_features()))

# %% [markdown]
# ## What this does not show
#
# Which features fine-tune better. Rank, frequency and likeness describe; `fdlab rank` asks whether any of them
# ranks models as fine-tuning does, and says so when there are too few models to tell.
