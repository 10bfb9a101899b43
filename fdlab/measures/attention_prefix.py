"""How much of the patches' attention goes to tokens that are no patch, in all and by their kind.

Masses come from logits: with P prefix tokens and log masses (logarithms of sums of exp(logits)), a token's share
is exp(its logit - log of the row's whole sum), so that shares near 0 and near 1 keep their digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BY_KIND = ("prefix_mass_cls", "prefix_mass_dist", "prefix_mass_register")


def log_mass(logits: Tensor) -> Tensor:
    """logsumexp over keys; -inf where there are none."""
    if logits.shape[-1] == 0:
        return logits.new_full(logits.shape[:-1], -math.inf)
    return logits.logsumexp(-1)


def mass_by_kind(prefix: Tensor, log_patches: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
    """``prefix_mass_KIND`` for every kind, (B, heads) each; they add up to ``prefix_mass``.

    Args:
        prefix: (B, heads, N, P) logits of the prefix keys.
        log_patches: (B, heads, N) log mass of the patch keys.
        kinds: the kind of each of the P tokens, in order. With fewer than two different ones ``prefix_mass`` says
            everything, and nothing is returned.
    """
    names = list(dict.fromkeys(kinds))
    if len(names) < 2 or len(kinds) != prefix.shape[-1]:
        return {}
    shares = (prefix - torch.logaddexp(log_mass(prefix), log_patches)[..., None]).exp().mean(-2)
    places = {name: [i for i, kind in enumerate(kinds) if kind == name] for name in names}
    return {f"prefix_mass_{name}": shares[..., where].sum(-1) for name, where in places.items()}
