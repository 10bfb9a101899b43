# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Attention maps: relative, absolute, or neither?
#
# Time: 15 minutes, of which about a minute of computing on one CPU core. Needs: fdlab, no download.
#
# Averaged maps of vision transformers show diagonal stripes (keys at a fixed offset from the query: relative
# behaviour) or vertical columns (the same keys for every query: absolute behaviour). Two numbers say how much of a map
# each explains: `r2_relative` and `r2_absolute`. NMI says how much the map depends on the query at all.

# %%
"""Attention maps: the lesson's code."""

import os

import torch

import fdlab

IMAGES = int(os.environ.get("FDLAB_LESSON_IMAGES", "64"))
STEPS = int(os.environ.get("FDLAB_LESSON_STEPS", "200"))
SIDE = 6
NAMES = ("r2_relative", "r2_absolute", "nmi")

# %% [markdown]
# ## Four maps with a known answer
#
# **Predict first**: fill in 0 or 1 for relative and absolute.

# %%
predicted = {"itself": (1, 0), "one column": (0, 1), "a blob around the query": (1, 0), "random rows": (0, 0)}

places = torch.stack(torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij"), -1).reshape(-1, 2).double()
squares = (places[:, None] - places[None]).square().sum(-1)
column = torch.zeros(SIDE**2, SIDE**2, dtype=torch.float64)
column[:, 8] = 1
generator = torch.Generator().manual_seed(0)
maps = {
    "itself": torch.eye(SIDE**2, dtype=torch.float64),
    "one column": column,
    "a blob around the query": (-squares / 2).softmax(-1),
    "random rows": (3 * torch.randn(SIDE**2, SIDE**2, generator=generator, dtype=torch.float64)).softmax(-1),
}
for name, one in maps.items():
    found = fdlab.attention_metrics(one[None, None], grid=(SIDE, SIDE), patch_size=4)
    values = ", ".join(f"{metric} {float(found[metric]):.2f}" for metric in NAMES)
    print(f"{name}: {values} (predicted {predicted[name]})")

# %% [markdown]
# NMI is 1 for the identity, goes to 0 (0/0 in the end) for a column, and lies in between for the blob and the random
# rows alike: it tells "collapsed" from "not", never local from random. That is why the two shares stand beside it.
#
# ## A contrastive and a masked model
#
# **Predict first**: which of the two pretext tasks needs to know *where* the query is?

# %%
predicted_relative = "masked"  # or "contrastive"

models = {}
for name in ("contrastive", "masked"):
    overrides = {"run.steps": STEPS}
    models[name] = str(fdlab.pretrain(f"digits/{name}", data="digits", out=f"runs/lesson-{name}", overrides=overrides))
models["untrained"] = f"random:{models['masked']}"
table = fdlab.measure("attention", models, data="digits#test", images=IMAGES, metrics=NAMES)
shown = table.pivot_table(index=["model", "block"], columns="metric", values="value", sort=False)
print(shown[list(NAMES)].round(2).to_string())
late = table[(table["metric"] == "r2_relative") & (table["depth"] > 0.5)].groupby("model")["value"].mean()
print("more relative in the last half:", late.drop("untrained").idxmax(), "- predicted:", predicted_relative)

# %% [markdown]
# ## Break it
#
# Average first, measure then: random rows of many images average to a uniform map, and whatever is left looks
# systematic. The numbers of fdlab are computed per image and then averaged; published plots often do the reverse.

# %%
many = (3 * torch.randn(256, 1, SIDE**2, SIDE**2, generator=generator, dtype=torch.float64)).softmax(-1)
each = fdlab.attention_metrics(many, grid=(SIDE, SIDE), patch_size=4)["nmi"].mean()
mean = fdlab.attention_metrics(many.mean(0, keepdim=True), grid=(SIDE, SIDE), patch_size=4)["nmi"]
print(f"NMI of each map, averaged: {float(each):.3f}; NMI of the averaged map: {float(mean):.3f}")

# %% [markdown]
# ## Exercise
#
# Build a map with `r2_relative` above 0.85 whose queries never look at themselves.


# %%
def own_map() -> torch.Tensor:
    """Yours: (36, 36), rows that sum to 1. This one is a solution; write another."""
    offset = (places[None] - places[:, None] - torch.tensor([0.0, 1.0], dtype=torch.float64)).square().sum(-1)
    return (-4 * offset - 100 * torch.eye(SIDE**2, dtype=torch.float64)).softmax(-1)


def check(one: torch.Tensor) -> str:
    """What is wrong with a map, or that nothing is."""
    if one.shape != (SIDE**2, SIDE**2) or not torch.allclose(one.sum(1), torch.ones(SIDE**2, dtype=one.dtype)):
        return "It must be 36 x 36 with rows that sum to 1."
    if float(one.diagonal().max()) > 1e-3:
        return "Some query looks at itself."
    share = float(fdlab.attention_metrics(one[None, None], grid=(SIDE, SIDE), patch_size=4)["r2_relative"])
    return f"r2_relative is {share:.2f}, not above 0.85." if share <= 0.85 else "Right: relative is not local."


print(check(own_map()))

# %% [markdown]
# ## What this does not show
#
# That relative maps are the reason for good fine-tuning. A shared relative-bias table makes maps relative by design:
# compare models of one architecture before you credit the training.
