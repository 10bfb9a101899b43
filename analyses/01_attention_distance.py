# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Attention distance: how far does a head look?
#
# Time: 15 minutes, of which about a minute of computing on one CPU core. Needs: fdlab, no download.
#
# A head gives every patch a weight for every other patch. The attention distance is the weighted mean of the distances
# between their centres, in pixels (Dosovitskiy et al. 2021, figure 7). We compute it by hand, then for a small model
# that masked modelling trained on handwritten digits, beside the same model before its first step.

# %%
"""Attention distance: the lesson's code."""

import os

import numpy as np
import torch

import fdlab

IMAGES = int(os.environ.get("FDLAB_LESSON_IMAGES", "64"))
STEPS = int(os.environ.get("FDLAB_LESSON_STEPS", "200"))

# %% [markdown]
# ## By hand
#
# A grid of 4 x 4 patches of 4 pixels. `identity` looks at itself alone, `uniform` at everything alike.
#
# **Predict first**: write the two distances into the variables below, then run the cell.

# %%
predicted_identity, predicted_uniform = 0.0, 8.0  # your numbers, in pixels

identity = torch.eye(16, dtype=torch.float64).expand(1, 1, 16, 16)
uniform = torch.full((1, 1, 16, 16), 1 / 16, dtype=torch.float64)
for name, maps, guess in (("identity", identity, predicted_identity), ("uniform", uniform, predicted_uniform)):
    distance = float(fdlab.attention_metrics(maps, grid=(4, 4), patch_size=4)["distance"])
    print(f"{name}: {abs(distance):.2f} px, predicted {guess:.2f} px")

# %% [markdown]
# The formula needs no library: centres, distances between them, a weighted mean.

# %%
centres = np.stack(np.meshgrid(np.arange(4), np.arange(4), indexing="ij"), -1).reshape(16, 2) * 4 + 2
apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
print("uniform, by hand:", round(float((uniform[0, 0].numpy() * apart).sum(1).mean()), 4), "px")

# %% [markdown]
# ## A trained model and its untrained start
#
# **Predict first**: which of the two has heads near the uniform line, and why? Which looks nearer?

# %%
predicted_nearer = "trained"  # or "untrained"

run = fdlab.pretrain("digits/masked", data="digits", out="runs/lesson-masked", overrides={"run.steps": STEPS})
models = {"trained": str(run), "untrained": f"random:{run}"}
table = fdlab.measure("attention", models, data="digits#test", images=IMAGES, metrics=("distance", "entropy"))
heads = table[table["metric"] == "distance"].pivot_table(index=["model", "block"], columns="head", values="value")
print(heads.round(1).to_string())
uniform_px = table.attrs["record"]["trained"].manifest["uniform_distance_px"]
print(f"uniform attention on this grid: {uniform_px:.1f} px")
means = table[table["metric"] == "distance"].groupby("model")["value"].mean()
print("nearer on average:", means.idxmin(), "- predicted:", predicted_nearer)

# %% [markdown]
# ## Break it
#
# A head that looks at one fixed patch, whatever the query, has a large distance too, and sees nothing far away that
# it chose. Entropy tells it from uniform attention: 0 is one key, 1 is all of them.

# %%
column = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
column[..., 0] = 1.0  # everybody looks at the first patch
for name, maps in (("uniform", uniform), ("one column", column)):
    found = fdlab.attention_metrics(maps, grid=(4, 4), patch_size=4)
    print(f"{name}: distance {float(found['distance']):.1f} px, entropy {float(found['entropy']):.2f}")

# %% [markdown]
# ## Exercise
#
# Make a 16 x 16 map whose rows sum to 1, whose distance is within half a pixel of uniform attention's, and whose
# entropy is below 0.4. (Hint: one key for each query is enough; which one?)


# %%
def own_map() -> np.ndarray:
    """Yours: (16, 16), rows that sum to 1. This one is a solution; write another."""
    wanted = apart.mean(1)
    chosen = np.abs(apart - wanted[:, None]).argmin(1)
    return np.eye(16)[chosen]


def check(maps: np.ndarray) -> str:
    """What is wrong with a map, or that nothing is."""
    if maps.shape != (16, 16) or not np.allclose(maps.sum(1), 1):
        return "It must be 16 x 16 with rows that sum to 1."
    found = fdlab.attention_metrics(torch.tensor(maps)[None, None], grid=(4, 4), patch_size=4)
    distance, entropy = float(found["distance"]), float(found["entropy"])
    if abs(distance - 8.03) > 0.5:
        return f"Its distance is {distance:.2f} px; uniform attention has 8.03 px."
    return f"Its entropy is {entropy:.2f}, not below 0.4." if entropy >= 0.4 else "Right: far is not broad."


print(check(own_map()))

# %% [markdown]
# ## What this does not show
#
# A distance says how far weights lie, not what the model uses them for. Pixels of two grids do not compare:
# `distance_ratio` divides by the uniform line. And one training of a tiny model on digits is one training of a tiny
# model on digits.
