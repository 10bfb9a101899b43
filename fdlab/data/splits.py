"""Which images are labelled and which validate, when only a few labels are used."""

from __future__ import annotations

import numpy as np

from fdlab.errors import USAGE, FdlabError
from fdlab.randomness import stream


def split_labelled(labels: np.ndarray, *, per_class: int, validation: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint sorted sets of positions: ``per_class`` of each class, and ``validation`` others in all.

    The validation images keep the proportions of the classes among what is left (largest remainders), and where they
    are enough, every class has one of them.
    With one seed, fewer labels a class are a part of more.

    Raises:
        FdlabError (2): unlabelled images, or too few of a class or in all.

    >>> labelled, held_out = split_labelled(np.array([0, 0, 0, 0, 1, 1, 1, 1]), per_class=1, validation=2, seed=0)
    >>> len(labelled), len(held_out), set(labelled) & set(held_out)
    (2, 2, set())
    """
    labels = np.asarray(labels)
    if labels.size == 0 or labels.min() < 0:
        raise FdlabError("These images have no labels.", fix="Use class folders or a label column.", code=USAGE)
    queues = {}
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < per_class:
            raise FdlabError(
                f"Class {label} has {len(members)} images, {per_class} were asked for.",
                fix=f"Ask for at most {len(members)} a class.",
                code=USAGE,
            )
        queues[label] = stream(seed, "labelled", int(label)).permutation(members)
    labelled = np.sort(np.concatenate([queue[:per_class] for queue in queues.values()]))
    left = [queue[per_class:] for queue in queues.values()]
    total = sum(len(queue) for queue in left)
    if validation > total:
        raise FdlabError(
            f"{validation} validation images were asked for, {total} are left.",
            fix="Ask for fewer, or for fewer labels a class.",
            code=USAGE,
        )
    shares = np.array([len(queue) * validation / max(total, 1) for queue in left])
    quota = np.floor(shares).astype(int)
    quota[np.argsort(quota - shares, kind="stable")[: validation - quota.sum()]] += 1
    while validation >= len(left) and (waiting := [i for i, queue in enumerate(left) if len(queue) and not quota[i]]):
        quota[waiting[0]] += 1
        quota[np.argmax(quota)] -= 1
    held = [queue[:count] for queue, count in zip(left, quota, strict=True)]
    return labelled, np.sort(np.concatenate(held))
