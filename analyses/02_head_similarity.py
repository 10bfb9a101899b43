# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Head similarity: do the heads of a block do the same?
#
# Time: 15 minutes, of which about a minute of computing on one CPU core. Needs: fdlab, no download.
#
# Wei et al. 2022 report that the deep heads of contrastive models attend alike, and that distilling their features
# makes them diverse. The usual measure is the cosine between two heads' maps. It has a trap.

# %%
"""Head similarity: the lesson's code."""

import os

import torch

import fdlab

IMAGES = int(os.environ.get("FDLAB_LESSON_IMAGES", "64"))
STEPS = int(os.environ.get("FDLAB_LESSON_STEPS", "200"))
GRID = {"grid": (6, 6), "patch_size": 4}

# %% [markdown]
# ## Two random heads
#
# Softmax of random numbers: two heads that have nothing to do with each other. At a small scale they are broad, at a
# large scale sharp. **Predict first**: the cosine between them at scale 0.1, and at scale 10.

# %%
predicted = {0.1: 0.5, 1.0: 0.5, 10.0: 0.5}  # your numbers

draws = torch.randn(32, 2, 36, 36, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
for scale, guess in predicted.items():
    found = fdlab.attention_metrics((scale * draws).softmax(-1), **GRID)
    similarity, centred, entropy = (
        float(found[name].mean()) for name in ("head_similarity", "head_similarity_centred", "entropy")
    )
    print(
        f"scale {scale}: similarity {similarity:.2f} (predicted {guess}), centred {centred:.2f}, entropy {entropy:.2f}"
    )

# %% [markdown]
# Broad maps are alike whatever they do: the plain cosine measures entropy as much as likeness. So the entropy stands
# beside it, the centred form takes the uniform part out, and the shuffled control permutes the keys of each map: what
# likeness remains then is owed to sharpness alone.
#
# ## A trained model
#
# **Predict first**: is the similarity of an untrained model's heads near 0, near 0.5 or near 1?

# %%
predicted_untrained = 0.5

run = fdlab.pretrain("digits/contrastive", data="digits", out="runs/lesson-contrastive", overrides={"run.steps": STEPS})
models = {"trained": str(run), "untrained": f"random:{run}"}
table = fdlab.measure("attention", models, data="digits#test", images=IMAGES)
wanted = ["head_similarity", "head_similarity_shuffled", "head_similarity_centred", "entropy"]
shown = table[table["metric"].isin(wanted)].pivot_table(index=["model", "block"], columns="metric", values="value")
print(shown.round(2).to_string())
untrained = shown.loc["untrained", "head_similarity"].mean()
print(f"untrained: {untrained:.2f}, predicted {predicted_untrained}")

# %% [markdown]
# ## Break it
#
# Give two heads the same map, each with its own little noise: the plain cosine and the centred one agree that they are
# alike. Give them different sharp maps: both fall.

# %%
same = (10 * draws[:, :1].expand(-1, 2, -1, -1) + 0.1 * draws).softmax(-1)
for name, maps in (("the same sharp map", same), ("different sharp maps", (10 * draws).softmax(-1))):
    found = fdlab.attention_metrics(maps, **GRID)
    print(
        f"{name}: plain {float(found['head_similarity'].mean()):.2f}, "
        f"centred {float(found['head_similarity_centred'].mean()):.2f}"
    )

# %% [markdown]
# ## Exercise
#
# Two models, two blocks each. In which does the similarity speak of likeness, and in which of breadth?

# %%
cases = {"A": {"similarity": 0.97, "shuffled": 0.96}, "B": {"similarity": 0.62, "shuffled": 0.15}}
answer = {"A": "breadth", "B": "likeness"}  # yours: "breadth" or "likeness"


def check(given: dict[str, str]) -> str:
    """What is wrong with an answer, or that nothing is."""
    for name, numbers in cases.items():
        right = "breadth" if numbers["similarity"] - numbers["shuffled"] < 0.1 else "likeness"
        if given.get(name) != right:
            return f"{name}: look at what is left after the keys were shuffled ({numbers['shuffled']})."
    return "Right: the control decides, not the number."


print(check(answer))

# %% [markdown]
# ## What this does not show
#
# That diverse heads are better heads. Similarity depends on the measure (cosine per image here, of averaged maps
# elsewhere), and in this project's small studies the order of contrastive and masked models is the reverse of the
# paper's: see reports/.
