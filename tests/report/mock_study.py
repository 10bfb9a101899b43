"""A made-up study in the form that the demo writes: the numbers are drawn around plausible ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fdlab.records.table import frame

TEACHER, MIM, STUDENT = "SimCLR teacher", "masked modelling", "FD student"
SAME, ALONE = "FD student in the teacher's design", "SimCLR in the student's design"
RANDOM_A, RANDOM_B = "random start (teacher's design)", "random start (student's design)"

# entropy, spread px, r2_relative, r2_absolute, nmi, head similarity, accuracy, final loss, teacher_r2
TYPICAL: dict[str, tuple[str, Sequence[float]]] = {
    TEACHER: ("contrastive", (0.69, 0.48, 0.21, 0.83, 0.04, 0.31, 0.948, 0.55, np.nan)),
    MIM: ("mim", (0.70, 1.61, 0.67, 0.09, 0.26, 0.62, 0.972, 0.53, 0.82)),
    STUDENT: ("distilled", (0.80, 1.11, 0.51, 0.40, 0.10, 0.38, 0.970, 0.57, 0.91)),
    SAME: ("distilled", (0.83, 0.47, 0.25, 0.78, 0.02, 0.39, 0.946, 0.61, 0.95)),
    ALONE: ("contrastive", (0.71, 0.34, 0.61, 0.24, 0.21, 0.31, 0.934, 0.58, 0.78)),
    RANDOM_A: ("random", (0.98, 0.16, 0.30, 0.30, 0.01, 0.87, 0.888, 0.72, 0.71)),
    RANDOM_B: ("random", (0.98, 0.10, 0.35, 0.25, 0.01, 0.85, 0.894, 0.77, 0.48)),
}
CONTROLS = {TEACHER: RANDOM_A, MIM: RANDOM_A, SAME: RANDOM_A, STUDENT: RANDOM_B, ALONE: RANDOM_B}


def attention_rows(
    model: str,
    family: str,
    typical: Sequence[float],
    *,
    blocks: int = 4,
    heads: int = 4,
    uniform: float = 12.3,
    images: int = 256,
    seed: int = 0,
) -> Iterable[dict[str, Any]]:
    """Every attention metric of one model."""
    entropy, spread, relative, absolute, nmi, similarity = typical[:6]
    rng = np.random.default_rng([seed, len(model), *model.encode()])
    common = {"model": model, "family": family, "seed": seed, "probe": "attention", "n": images}

    def row(metric: str, value: float, half: float, unit: str, block: int, head: int | None) -> dict[str, Any]:
        return {
            **common,
            "metric": metric,
            "block": block,
            "depth": (block + 1) / blocks,
            "head": head,
            "value": value,
            "low": value - half,
            "high": value + half,
            "unit": unit,
        }

    for block in range(blocks):
        scale = uniform / 12.3
        reach = spread * (2.2 if family == "mim" and block == 0 else 1.0) * scale
        distances = uniform - abs(rng.normal(0, 0.3)) * scale - reach * rng.permutation(np.linspace(0, 1, heads))
        for head in range(heads):
            noise = rng.normal(0, 0.03, 6)
            per_head = {
                "distance": (distances[head], 0.05 * scale, "px"),
                "distance_ratio": (distances[head] / uniform, 0.005, ""),
                "entropy": (min(entropy + noise[0], 1.0), 0.01, ""),
                "nmi": (max(nmi + noise[1] * nmi * 4, 0.001), 0.01, ""),
                "prefix_mass": (0.0, 0.0, ""),
                "diagonality": (1 / 36 + abs(noise[2]), 0.002, ""),
                "column_concentration": (0.1 + abs(noise[3]), 0.005, ""),
                "r2_relative": (relative + noise[4], 0.02, ""),
                "r2_absolute": (absolute + noise[5], 0.02, ""),
            }
            for metric, (value, half, unit) in per_head.items():
                yield row(metric, value, half, unit, block, head)
        noise = rng.normal(0, 0.04, 3)
        per_block = {
            "distance_spread": (float(np.ptp(distances)), 0.08 * scale, "px"),
            "distance_sd": (float(np.std(distances)), 0.04 * scale, "px"),
            "head_similarity": (similarity + noise[0], 0.015, ""),
            "head_similarity_centred": (noise[1], 0.02, ""),
            "head_divergence": (1 - similarity + noise[2], 0.03, "nats"),
        }
        for metric, (value, half, unit) in per_block.items():
            yield row(metric, value, half, unit, block, None)


def model_rows(model: str, family: str, typical: Sequence[float], seed: int = 0) -> Iterable[dict[str, Any]]:
    """Fine-tuning and teacher_r2 of one model."""
    accuracy, loss, explained = typical[6:]
    common = {"model": model, "family": family, "seed": seed}
    half = 1.96 * (accuracy * (1 - accuracy) / 500) ** 0.5
    training = {**common, "probe": "training"}
    yield {
        **training,
        "metric": "accuracy",
        "value": accuracy,
        "low": accuracy - half,
        "high": min(accuracy + half, 1),
        "n": 500,
        "objective": "test",
    }
    yield {**training, "metric": "final_loss", "value": loss, "objective": "train"}
    yield {**training, "metric": "learning_rate", "value": 3e-3}
    if np.isfinite(explained):
        yield {
            **common,
            "probe": "features",
            "metric": "teacher_r2",
            "value": explained,
            "low": explained - 0.02,
            "high": explained + 0.02,
            "n": 256,
        }
        for block in range(4):
            value = explained * (0.7 + 0.1 * block)
            row = {**common, "probe": "features", "metric": "teacher_r2", "value": value, "n": 256}
            yield {**row, "block": block, "depth": (block + 1) / 4, "low": value - 0.02, "high": value + 0.02}


def ruler_rows() -> Iterable[dict[str, Any]]:
    """Three dials of the procedural data."""
    for alpha, measured, heads in (
        (0.0, 7.3, (4.8, 7.9, 12.1, 14.2)),
        (0.5, 14.2, (6.4, 14.0, 14.7, 17.5)),
        (1.0, 21.1, (16.4, 20.8, 21.9, 22.5)),
    ):
        common = {
            "model": f"locality {alpha:g}",
            "family": "supervised",
            "seed": 0,
            "probe": "ruler",
            "x": alpha,
        }
        common |= {"block": 0, "depth": 0.5, "unit": "px", "n": 256}
        yield {
            **common,
            "metric": "distance_weighted",
            "value": measured,
            "low": measured - 0.2,
            "high": measured + 0.2,
        }
        yield {**common, "metric": "distance_ideal", "value": 4 + 18.8 * alpha}
        for head, distance in enumerate(heads):
            yield {**common, "metric": "distance", "head": head, "value": distance, "unit": "px"}
            yield {**common, "metric": "entropy", "head": head, "value": 0.35 + 0.05 * head, "unit": ""}


def curve_rows() -> Iterable[dict[str, Any]]:
    """Loss curves of the five trainings and the fine-tunings."""
    rng = np.random.default_rng(0)
    stages = {
        "contrastive": ((TEACHER, 4.2, 0.9), (ALONE, 4.2, 1.1)),
        "masked": ((MIM, 1.0, 0.35),),
        "distillation": ((STUDENT, 0.25, 0.011), (SAME, 0.25, 0.005)),
        "fine-tuning": tuple((name, 2.3, TYPICAL[name][1][7]) for name in TYPICAL),
    }
    for stage, members in stages.items():
        for model, start, end in members:
            steps = np.arange(0, 160 if stage == "fine-tuning" else 400, 4)
            loss = end + (start - end) * np.exp(-steps / 40) * np.exp(rng.normal(0, 0.06, len(steps)))
            for step, value in zip(steps, loss, strict=True):
                yield {
                    "model": model,
                    "family": TYPICAL[model][0],
                    "seed": 0,
                    "probe": "curve",
                    "metric": "loss",
                    "x": float(step),
                    "value": float(value),
                    "objective": stage,
                }


def hessian_rows() -> Iterable[dict[str, Any]]:
    """Spectra of three trained models and a control: heavy tails, both signs, blocks and minibatches."""
    for model, top in ((TEACHER, 420.0), (MIM, 95.0), (STUDENT, 140.0), (RANDOM_A, 30.0)):
        common = {"model": model, "family": TYPICAL[model][0], "seed": 0, "probe": "hessian", "n": 128}
        common |= {"objective": "cross-entropy of a linear probe; 128 images, eval mode, no augmentation"}
        size = 20_000
        for rank, share in enumerate((1.0, 0.6, 0.35, 0.2, 0.1), start=1):
            value = top * share
            yield {**common, "metric": f"eigenvalue_{rank}", "value": value, "low": 0.8 * value, "high": 1.3 * value}
        yield {**common, "metric": "eigenvalue_lowest", "value": -0.1 * top, "low": -0.2 * top, "high": -0.01 * top}
        yield {**common, "metric": "trace", "value": 6 * top, "low": 5.8 * top, "high": 6.2 * top}
        yield {**common, "metric": "eigenvalue_1_balanced", "value": 0.7 * top, "low": 0.5 * top, "high": top}
        yield {**common, "metric": "trace_balanced", "value": 4 * top, "low": 3.9 * top, "high": 4.1 * top}
        yield {**common, "metric": "negative_mass", "value": 0.2}
        yield {**common, "metric": "objective_loss", "value": 0.3}
        yield {**common, "metric": "gradient_norm", "value": 1.5}
        atoms = [*(top * 0.8 ** np.arange(20)), *(-0.1 * top * 0.6 ** np.arange(10))]
        rest = 1 - len(atoms) / size
        nodes = np.linspace(-0.02, 0.04, 60) ** 3 * top * 20
        weights = np.exp(-((np.linspace(-3, 3, 60)) ** 2))
        masses = [(place, 1 / size) for place in atoms]
        masses += list(zip(nodes, rest * weights / weights.sum(), strict=True))
        for place, mass in masses:
            yield {**common, "metric": "spectral_mass", "x": float(place), "value": float(mass)}
        for block in range(4):
            place = {"block": block, "depth": (block + 1) / 4}
            value = top / (block + 2)
            yield {**common, **place, "metric": "eigenvalue_1", "value": value, "low": value, "high": value}
            yield {**common, **place, "metric": "trace", "value": 3 * value, "low": 2.5 * value, "high": 3.5 * value}
        yield {**common, "metric": "eigenvalue_1_embedding", "value": 0.7 * top}
        yield {**common, "metric": "trace_embedding", "value": 2 * top}
        for batch in range(4):
            for rank in range(5):
                value = top * (1.2 + 0.1 * batch) / (rank + 1)
                own = {"metric": "max_eigenvalue", "x": batch, "y": rank + 1, "value": value, "n": 32}
                yield {**common, **own}
        yield {**common, "metric": "max_eigenvalue_mean", "value": 1.35 * top, "low": 1.2 * top, "high": 1.5 * top}


def sharpness_rows() -> Iterable[dict[str, Any]]:
    """Sharpness, noise curves and the reparametrisation control of the same models."""
    for model, top in ((TEACHER, 420.0), (MIM, 95.0), (STUDENT, 140.0), (RANDOM_A, 30.0)):
        common = {"model": model, "family": TYPICAL[model][0], "seed": 0, "probe": "sharpness", "n": 128}
        common |= {"objective": "cross-entropy of a linear probe; 128 images, eval mode, no augmentation"}
        names = ("sharpness_average", "sharpness_worst", "sharpness_adaptive", "sharpness_adaptive_worst")
        for metric, value in (*zip(names, (0.01 * top, 0.05 * top, 1.2, 2.4), strict=True), ("noise_to_rise", 2 / top)):
            yield {**common, "metric": metric, "value": value, "low": 0.8 * value, "high": 1.2 * value}
        for share in (0.5, 0.7, 1.0, 1.4, 2.0):
            value = 0.1 * share**2
            place = {"metric": "noise_curve", "x": 2 / top * share}
            yield {**common, **place, "value": value, "low": 0.7 * value, "high": 1.3 * value}
        moves = {"eigenvalue_1": 8.0, "eigenvalue_1_balanced": 1.3, "noise_to_rise": 0.3, "function": 1e-7}
        for number in range(1, 6):
            for measure in ("eigenvalue_1", "eigenvalue_1_balanced", *names, "noise_to_rise", "function"):
                ratio = moves.get(measure, 1.5) ** (number / 5) if measure != "function" else 3e-7
                yield {**common, "metric": f"moved_{measure}", "x": number, "value": ratio}


def landscape_rows() -> Iterable[dict[str, Any]]:
    """Lines, a plane, a path and an interpolation of the same models."""
    for model, top in ((TEACHER, 420.0), (MIM, 95.0), (STUDENT, 140.0), (RANDOM_A, 30.0)):
        common = {"model": model, "family": TYPICAL[model][0], "seed": 0, "probe": "landscape", "n": 128}
        common |= {"objective": "cross-entropy of a linear probe; 128 images, eval mode, no augmentation"}
        for x in np.linspace(-1, 1, 9):
            rise = 0.05 * top * x**2
            yield {
                **common,
                "metric": "loss_line",
                "x": x,
                "value": 0.1 + rise,
                "low": 0.1 + 0.5 * rise,
                "high": 0.1 + 2 * rise,
            }
            accuracy = 1 / (1 + rise)
            yield {
                **common,
                "metric": "accuracy_line",
                "x": x,
                "value": accuracy,
                "low": 0.9 * accuracy,
                "high": accuracy,
            }
        if model == RANDOM_A:
            continue
        for form in ("plane", "trajectory") if model == TEACHER else ("plane",):
            for x in np.linspace(-1, 1, 7):
                for y in np.linspace(-1, 1, 7):
                    yield {
                        **common,
                        "metric": f"loss_{form}",
                        "x": x,
                        "y": y,
                        "value": 0.1 + 0.05 * top * (x * x + 2 * y * y),
                    }
    same = {**common, "model": TEACHER, "family": "contrastive"}
    other = {**common, "model": STUDENT, "family": "distilled"}
    for step in range(3):
        yield {**same, "metric": "trajectory", "x": 0.9 - 0.3 * step, "y": 0.2 * step, "value": 100 * step}
    for number in (1, 2):
        yield {**same, "metric": "trajectory_explained", "x": number, "value": 0.8 / number**3}
        yield {**same, "metric": "trajectory_random_walk", "x": number, "value": 0.6 / number**2}
    for x in np.linspace(0, 1, 5):
        for one in (same, other):
            yield {**one, "metric": "loss_interpolation", "x": x, "value": 0.1 + 8 * x * (1 - x)}
            yield {**one, "metric": "accuracy_interpolation", "x": x, "value": 1 - 3 * x * (1 - x)}


def feature_rows() -> Iterable[dict[str, Any]]:
    """Features of three models of four blocks, and CKA between them."""
    shown = (TEACHER, STUDENT, RANDOM_A)
    for number, model in enumerate(shown):
        common = {"model": model, "family": TYPICAL[model][0], "seed": 0, "probe": "features", "n": 256}
        for block in range(4):
            at = {**common, "block": block, "depth": (block + 1) / 4}
            for metric, value in (
                ("effective_rank", 12.0 + 3 * block - 4 * number),
                ("high_frequency", -3.0 + 0.2 * block * number),
                ("token_similarity", 0.2 + 0.15 * block),
                ("alignment", 0.9 - 0.1 * block),
                ("uniformity", -2.0 + 0.3 * number),
            ):
                yield {**at, "metric": metric, "value": value, "low": value - 0.05, "high": value + 0.05}
            for k in (1, 2, 5, 10, 30):
                share = 0.3 * k ** (-1.0 - 0.2 * number)
                yield {
                    **at,
                    "metric": "singular_value",
                    "x": k,
                    "value": share,
                    "low": 0.9 * share,
                    "high": 1.1 * share,
                }
            for x in range(4):
                likeness = 0.95 ** abs(block - x) - 0.1 * number
                value = {"metric": "cka", "x": x, "value": likeness, "low": likeness - 0.03, "high": likeness + 0.02}
                if block < x:
                    yield {**at, **value}
                for other in shown[number + 1 :]:
                    yield {**at, **value, "reference": other, "value": 0.6 * likeness, "low": 0.5 * likeness}


def map_rows() -> Iterable[dict[str, Any]]:
    """Mean maps of 3 x 3 cells, from diagonal to columns, and biases on a 4 x 4 grid for three of the models."""
    places = np.stack(np.meshgrid(np.arange(3), np.arange(3), indexing="ij"), -1).reshape(-1, 2)
    near = -((places[:, None] - places[None]) ** 2).sum(-1)
    for number, model in enumerate((TEACHER, MIM, STUDENT, RANDOM_A)):
        common = {"model": model, "family": TYPICAL[model][0], "seed": 0, "probe": "attention_maps", "n": 256}
        for block in (0, 2, 3):
            at = {**common, "block": block, "depth": (block + 1) / 4}
            for head in range(4):
                for metric, value in (
                    ("entropy", 0.9),
                    ("nmi", 0.1),
                    ("r2_relative", 0.2 * number),
                    ("r2_absolute", 0.3),
                ):
                    low, high = value - 0.03, value + 0.02
                    yield {**at, "metric": f"{metric}_of_mean", "head": head, "value": value, "low": low, "high": high}
            for head in (2, 1):
                logits = (near * head * number / 2).astype(float)
                logits[:, 3 * head - 3] += number
                cells = np.exp(logits) / np.exp(logits).mean(1, keepdims=True)
                for (y, x), value in np.ndenumerate(cells):
                    place = {"metric": "attention_map", "head": head, "x": x, "y": y}
                    yield {**at, **place, "value": value, "low": 0.9 * value, "high": 1.1 * value}
                for y, x in np.ndindex(7, 7) if model != TEACHER else ():
                    place = {"metric": "relative_bias", "head": head, "x": x - 3, "y": y - 3, "n": None}
                    yield {**at, **place, "value": 1.3 - 0.1 * number * ((x - 3) ** 2 + (y - 3) ** 2)}


def attribution_rows() -> Iterable[dict[str, Any]]:
    """Curves of three orders and effects of heads of three of the models."""
    for number, model in enumerate((TEACHER, STUDENT, RANDOM_A)):
        common = {"model": model, "family": TYPICAL[model][0], "seed": 0, "probe": "attribution", "n": 256}
        common |= {"objective": "cosine to the image's own feature (mean of its final patch tokens)"}
        areas = {"gradients": 0.2 + 0.1 * number, "rollout": 0.35 + 0.05 * number, "random": 0.5}
        for order, area in areas.items():
            for kind, low_first in (("deletion", area), ("insertion", 1 - area)):
                for x in np.linspace(0, 1, 11):
                    power = low_first / (1 - low_first)
                    value = 1 - x**power if kind == "deletion" else x ** (1 / power)
                    at = {"metric": f"{kind}_curve_{order}", "x": float(x), "value": value}
                    yield {**common, **at, "low": value - 0.04, "high": value + 0.03}
                for what, value in (("area", low_first), ("gain", 0.5 - area)):
                    if what == "area" or order != "random":
                        at = {"metric": f"{kind}_{what}_{order}", "value": value}
                        yield {**common, **at, "low": value - 0.02, "high": value + 0.02}
        for block in range(4):
            for head in range(4):
                value = 0.01 * (1 + block) * (head - 0.5) / (1 + number)
                at = {"block": block, "depth": (block + 1) / 4, "head": head, "value": value}
                for metric in ("head_effect", "head_effect_share", "head_conductance"):
                    yield {**common, **at, "metric": metric, "low": value - 0.004, "high": value + 0.005}


def trainability_rows() -> Iterable[dict[str, Any]]:
    """Three models over three seeds and four rates, their means, and the curvature along the way."""
    for number, model in enumerate((TEACHER, STUDENT, RANDOM_B)):
        common = {"model": model, "family": TYPICAL[model][0], "probe": "trainability"}
        for seed in (0, 1, 2, None):
            at = {**common, "seed": seed}
            bounds = {} if seed is not None else {"n": 3}
            for place, rate in enumerate((3e-4, 1e-3, 3e-3, 1e-2)):
                value = 0.95 - 0.05 * number - 0.03 * abs(place - 1.5 - 0.2 * number) + 0.004 * (seed or 0)
                own = {} if seed is not None else {**bounds, "low": value - 0.02, "high": value + 0.02}
                yield {**at, "metric": "accuracy", "x": rate, "value": value, **own}
                yield {**at, "metric": "diverged", "x": rate, "value": float(place == 3 and number == 2), **bounds}
            single = {"best_accuracy": 0.93 - 0.05 * number, "best_rate": 1e-3, "lr_width": 0.8, "steps_to_loss": 90.0}
            for metric, value in single.items():
                own = {} if seed is not None else {**bounds, "low": 0.9 * value, "high": 1.04 * value}
                yield {**at, "metric": metric, "value": value, **own}
            for step in (50, 100, 150):
                value = 900.0 / step * (1 + number)
                own = {} if seed is not None else {**bounds, "low": 0.8 * value, "high": 1.3 * value}
                yield {**at, "metric": "eigenvalue_1_balanced", "x": step, "value": value, **own}


def step_rows() -> Iterable[dict[str, Any]]:
    """Two models along their training, whose last state is measured in full beside it."""
    for number, model in enumerate((TEACHER, STUDENT)):
        for step in (0, 50, 100, 200):
            common = {"model": model, "family": TYPICAL[model][0], "seed": 0, "probe": "attention", "n": 64}
            for metric, value in (("distance", 12.0 - 0.01 * step), ("entropy", 0.9 - 0.001 * step * number)):
                for block in range(4):
                    at = {"metric": metric, "block": block, "depth": (block + 1) / 4, "head": 0, "step": step}
                    yield {**common, **at, "value": value, "low": value - 0.02, "high": value + 0.02}
            at = {"probe": "features", "metric": "knn", "step": step, "objective": "patch mean, 5 folds"}
            yield {**common, **at, "value": 0.5 + 0.002 * step, "low": 0.4, "high": 0.9}


def two_way_rows() -> Iterable[dict[str, Any]]:
    """Effects on three measures for two kinds of pre-training."""
    for number, kind in enumerate(("contrastive", "masked")):
        common = {"model": kind, "family": ("contrastive", "mim")[number], "probe": "two_way", "n": 3}
        for metric, x, size in (("r2_absolute", None, -0.3), ("distance_spread", None, 1.2), ("accuracy", 20, 0.02)):
            effects = {"together": 1.1 * size, "own design": 0.1 * size, "student's design": 0.1 * size}
            for effect, value in (effects | {"design": size, "interaction": 0.05 * size}).items():
                bounds = {"value": value, "low": value - 0.4 * abs(size), "high": value + 0.4 * abs(size)}
                unit = "px" if metric == "distance_spread" else ""
                row = {**common, "metric": metric, "x": x, "unit": unit, "reference": effect}
                yield {**row, **bounds}
                yield {**row, "probe": "two_way_holm", "unit": "", "value": 0.01 if effect == "design" else 0.4}
                yield from ({**row, "probe": "two_way_seeds", "n": None, "seed": s, "value": value} for s in range(3))


def ranking_rows() -> Iterable[dict[str, Any]]:
    """What ``fdlab rank`` writes: each model's score, and two measures against it over eight lineages and within."""
    for place, (model, (family, _)) in enumerate(TYPICAL.items()):
        yield {"model": model, "family": family, "probe": "rank", "metric": "score", "value": 0.7 + place / 50}
    for measure, tau, p in (("distance_spread", 0.9, 0.01), ("knn", -0.2, 0.6)):
        same = {"probe": "rank", "objective": measure, "n": 8}
        yield {**same, "metric": "kendall_tau", "value": tau, "low": tau - 0.3, "high": min(1, tau + 0.3)}
        yield {**same, "metric": "kendall_lineage_out", "value": tau, "low": tau - 0.1, "high": min(1, tau + 0.1)}
        numbers = {"p": p, "p_holm": min(1, 4 * p), "within": -tau / 3, "concordant": 4, "discordant": 5}
        numbers |= {"within_p": 0.8, "within_p_holm": 1.0}
        yield from ({**same, "metric": f"kendall_{name}", "value": value} for name, value in numbers.items())


def study_table() -> pd.DataFrame:
    """The whole made-up study."""
    made: list[dict[str, Any]] = []
    for model, (family, typical) in TYPICAL.items():
        made += attention_rows(model, family, typical)
        made += model_rows(model, family, typical)
    return frame(
        [
            *made,
            *ruler_rows(),
            *curve_rows(),
            *hessian_rows(),
            *sharpness_rows(),
            *landscape_rows(),
            *feature_rows(),
            *map_rows(),
            *attribution_rows(),
            *trainability_rows(),
            *two_way_rows(),
            *ranking_rows(),
            *step_rows(),
        ]
    )


def study_facts() -> dict[str, Any]:
    """What the study knows beside its table."""
    return {
        "title": "Distillation on 8 × 8 digits",
        "question": "Does distilling a contrastive teacher change how its attention looks, and is it the teacher?",
        "data": "digits",
        "images": 256,
        "uniform_px": dict.fromkeys(TYPICAL, 12.3),
        "ruler_uniform_px": 16.55,
        "options": {STUDENT: ["bias_scale 10"], ALONE: ["bias_scale 10"], RANDOM_B: ["bias_scale 10"]},
        "seed": 0,
        "budget": "Each start gets learning rates 1e-3, 3e-3 and 8e-3 for 160 steps of 40 images.",
        "splits": {"labelled": 200, "validation": 400, "test": 500},
        "seconds": {
            "ruler": 32.1,
            "contrastive": 65.0,
            "masked": 34.2,
            "distillation": 93.5,
            "fine-tuning": 71.0,
        },
        "position_only_loss": 0.09,
        "distil_loss": {STUDENT: 0.011, SAME: 0.005},
        "notes": [
            "The heads of the FD student spread over 1.11 px in the last two blocks, its teacher's over 0.48 px.",
            "The student in the teacher's own design keeps the teacher's spread (0.47 px).",
            "The fine-tuned accuracies of the four trained starts do not differ clearly.",
        ],
        "command": "fdlab demo --seed 0 -o runs/demo",
        "versions": {"fdlab": "0.1.0", "torch": "2.14.1", "timm": "1.0.31"},
        "skipped_images": 0,
        "controls": dict(CONTROLS),
        "order": list(TYPICAL),
    }
