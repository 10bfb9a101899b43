# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Hessian spectra: how sharply is a loss curved?
#
# Change the weights of a model by a small step `d`, and its loss changes by `g.d + d.H.d / 2`. The gradient `g` is
# the slope, the Hessian `H` the curvature: a matrix with as many rows as the model has weights. Nobody writes it
# down; but its product with a vector costs two to three gradients, and products are enough.

# %%
"""Hessian spectra: the lesson's code."""

import os

import torch

import fdlab
from fdlab.checkpoints.open import open_model
from fdlab.encoders.encoder import Encoder
from fdlab.encoders.reparametrise import attention_parts, scale_heads

IMAGES = int(os.environ.get("FDLAB_LESSON_IMAGES", "64"))
SOURCE = os.environ.get("FDLAB_LESSON_MODEL", "")

# %% [markdown]
# ## A matrix that we know
#
# `L(w) = (3 w_1^2 + w_2^2 - w_3^2) / 2` has the eigenvalues 3, 1 and -1. One run gives them with a residual bound:
# a true eigenvalue lies no further away than that.

# %%
module = torch.nn.Module()
module.w = torch.nn.Parameter(torch.zeros(3))
scales = torch.tensor([3.0, 1.0, -1.0])
found = fdlab.hessian_spectrum(module, lambda m, _: 0.5 * (scales * m.w**2).sum(), [(torch.ones(1),)], k=2)
print("largest:", found.eigenvalues, "bounds:", found.residuals, "lowest:", found.lowest, "trace:", found.trace)
assert abs(found.eigenvalues[0] - 3) < 1e-5

# %% [markdown]
# ## A vision transformer
#
# An encoder has no loss of its own. The default here is a linear probe on its frozen features, fitted to convergence
# with a fixed penalty, then frozen itself: cross-entropy, eval mode, no augmentation, fixed images. All of that
# stands in the column `objective`, because numbers of two objectives do not compare.


# %%
def small_model() -> Encoder:
    """An untrained transformer for 8 x 8 digits, or the model that the environment names."""
    from timm.models.vision_transformer import VisionTransformer

    if SOURCE:
        return open_model(SOURCE)
    torch.manual_seed(0)
    return Encoder.wrap(VisionTransformer(img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=0))


model = small_model()
table = fdlab.measure("hessian", {"model": model}, data="digits", images=IMAGES, probes=1)
whole = table[table["metric"] != "spectral_mass"].set_index("metric")
print(whole["objective"].iloc[0])
print(whole[["value", "low", "high"]].to_string())

# %% [markdown]
# Most eigenvalues are nearly zero and a few stand far out; nearly half are negative, most of them only by rounding.
# So the probe reports the negative share of the curvature, not a count. The probes' part of the trace has a standard
# error; the part of the outliers is exact.
#
# ## What the number hides
#
# Multiply the queries of every head by 4 and divide its keys by 4: the attention is the same, the function is the
# same, the curvature is not. The balanced form takes such scales out.

# %%
moved = small_model()
with torch.no_grad():
    for block in moved.module.blocks:
        scale_heads(attention_parts(block.attn), query=4.0, value=4.0)
for part, name in (("whole", "trace"), ("balanced", "trace_balanced")):
    pair = {"as it is": model, "rescaled": moved}
    values = fdlab.measure("hessian", pair, data="digits", images=IMAGES, part=part, probes=1)
    rows = values[values["metric"] == name]
    print(name, dict(zip(rows["model"], rows["value"].round(3), strict=True)))

# %% [markdown]
# Do not conclude from a small eigenvalue that a model generalises or fine-tunes better: it depends on the objective,
# on how low the loss is, and on scales that mean nothing (Dinh et al. 2017; Andriushchenko et al. 2023).
