# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Attribution: what does an answer rest on?
#
# Time: 20 minutes, of which about a minute of computing on one CPU core. Needs: fdlab, no download.
#
# A heat map over an image always looks like an explanation. Deletion and insertion put it to a test: if the map ranks
# parts of the image by what the model needs, removing them from the top must cost the score fast. The yardstick is a
# random order, not 0. Heads can be asked the same: what does the score lose without one of them?

# %%
"""Attribution: the lesson's code."""

import os

import numpy as np
import torch

import fdlab
from fdlab.measures.attribution import curves, integrated_gradients
from fdlab.measures.attribution_rows import area, falling

IMAGES = int(os.environ.get("FDLAB_LESSON_IMAGES", "48"))
STEPS = int(os.environ.get("FDLAB_LESSON_STEPS", "200"))

# %% [markdown]
# ## Known answers
#
# The score is the sum of all pixels, and the image is one everywhere: 16 cells, each with as much of the score. Then a
# second image, where one cell has all of it. **Predict first**: the area under the deletion curve of each, if the
# cells go in the best order.

# %%
predicted = {"every cell alike": 0.0, "one cell has it all": 0.0}  # your numbers

GRID = (4, 4)


def total(images: torch.Tensor, _aims: torch.Tensor) -> torch.Tensor:
    """(B,): the sum of all pixels."""
    return images.sum((1, 2, 3))


alike = torch.ones(1, 3, 16, 16)
single = torch.zeros(1, 3, 16, 16)
single[:, :, 4:8, 8:12] = 1.0  # the cell of row 1, column 2
best = torch.tensor([[6, *(cell for cell in range(16) if cell != 6)]])
shares = np.arange(17) / 16
for (name, guess), image in zip(predicted.items(), (alike, single), strict=True):
    removed, _ = curves(total, image, torch.zeros(1), best, GRID, range(17))
    print(f"{name}: area {float(area(falling(removed.numpy()), shares)[0]):.3f} (predicted {guess})")

# %% [markdown]
# No ranking can beat 1/2 where every cell counts the same: a good model and a good map give a "bad" area. The area
# speaks of the ranking *and* of how concentrated the score is.
#
# Integrated gradients have a check of their own, completeness: the attributions sum to the score's change.

# %%
image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
for steps in (2, 10, 50):
    _, gap = integrated_gradients(lambda x, _: torch.sin(3 * x).sum((1, 2, 3)), image, torch.zeros(1), steps=steps)
    print(f"{steps} steps: attributions miss the score's change by {abs(float(gap[0])):.1e}")

# %% [markdown]
# ## A trained model and its start
#
# The models have no classifier, so the score is the cosine to the image's own feature: which parts make this image be
# itself? **Predict first**: does integrated gradients beat a random order in the trained model? In the untrained one?

# %%
predicted_better = {"after": True, "before": False}  # yours

run = fdlab.pretrain("digits/contrastive", data="digits", out="runs/lesson-contrastive", overrides={"run.steps": STEPS})
models = {"after": str(run), "before": f"random:{run}"}
table = fdlab.measure("attribution", models, data="digits", images=IMAGES, steps=9, gradient_steps=20)
for name, guess in predicted_better.items():
    own = table[table["model"] == name].set_index("metric")
    for order in ("gradients", "rollout"):
        gain = own.loc[f"deletion_gain_{order}"]
        said = "better than chance" if gain["low"] > 0 else "no better than chance, as far as these images show"
        print(f"{name}: {order} {gain['value']:.3f} ({gain['low']:.3f} to {gain['high']:.3f}), {said}")
    print(f"  predicted for gradients: {'better' if guess else 'not better'}")
    print(f"  completeness error {own.loc['completeness_error', 'value']:.1e}")

# %% [markdown]
# If the untrained model's ranking beats chance too, the gain is no sign of training: gradients describe any function.
# That is what the control is for.
#
# ## Heads
#
# **Predict first**: in which block (1 to 4) is the head that the trained model's score needs most?

# %%
predicted_block = 1

heads = fdlab.measure("attribution", models, data="digits", images=IMAGES, part="heads", gradient_steps=20)
effect = heads[(heads["metric"] == "head_effect_share") & (heads["model"] == "after")].sort_values("value")
for row in effect.tail(3).itertuples():
    place = f"block {int(row.block) + 1}, head {int(row.head) + 1}"
    print(f"{place}: {100 * row.value:.2f} % of the score ({100 * row.low:.2f} to {100 * row.high:.2f})")
print("predicted block:", predicted_block)

# %% [markdown]
# ## Break it
#
# Two heads that do the same: let the score be `max(a, b)` of two copies of one number, and leave out one, the other,
# both.

# %%
a = b = 3.0
full = max(a, b)
print("without the first:", full - max(0.0, b), "- without the second:", full - max(a, 0.0))
print("without both:", full - max(0.0, 0.0))

# %% [markdown]
# Each alone looks useless, together they are everything. Effects of single heads are not shares of a cake.
#
# ## Exercise
#
# A score of 16 cells, given as the weight of each (the score is the sum of weights of the cells that are there, all
# weights 0 or more). Choose the weights so that the best order's deletion area is between 0.20 and 0.25.


# %%
def own_weights() -> np.ndarray:
    """Yours: (16,). This one is a solution; write another."""
    return 0.78 ** np.arange(16)


def check(given: np.ndarray) -> str:
    """What is wrong with an answer, or that nothing is."""
    if given.shape != (16,) or (given < 0).any() or given.sum() == 0:
        return "16 weights are needed, none below 0 and not all 0."
    cells = torch.tensor(given, dtype=torch.float32).reshape(1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    order = torch.from_numpy(np.argsort(-given, kind="stable").copy())[None]
    removed, _ = curves(total, cells.expand(-1, 3, -1, -1), torch.zeros(1), order, GRID, range(17))
    found = float(area(falling(removed.numpy()), shares)[0])
    return "Right." if 0.20 <= found <= 0.25 else f"The area is {found:.3f}: spread the weights more, or less."


print(check(own_weights()))

# %% [markdown]
# ## What this does not show
#
# That an explanation is true. Deletion makes pictures with holes that the model never saw, and a ranking can move the
# score for that reason alone. It does not show that two models see alike, nor which of them fine-tunes better.
