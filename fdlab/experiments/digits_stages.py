"""The demo's stages, each a function that a worker process runs and that can be called again."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from fdlab.errors import USAGE, FdlabError
from fdlab.records.atomic import write_json
from fdlab.records.intervals import mean_interval
from fdlab.records.run_folder import RunFolder
from fdlab.records.store import Record
from fdlab.records.table import frame, join
from fdlab.study import stage
from fdlab.study.parallel import report
from fdlab.version import __version__

HELD_OUT, RIDGE_IMAGES, RULER_IMAGES = 256, 400, 128
CURVED = 32  # labelled digits whose mean loss is looked at
CURVATURE_COST = 12000
RATES = (2e-3, 6e-3)  # of fine-tuning
ATTRIBUTED, AVERAGED = 8, 64  # images whose score is taken apart; images over which maps are averaged
ATTRIBUTION_COST = 2500
FEATURES = ("cka", "effective_rank", "singular_value", "high_frequency", "token_similarity", "uniformity")
PROBE_COST = 3000  # in the progress bar's milliseconds


def same_question(folder: Path, question: dict[str, Any]) -> None:
    """Refuses a folder that holds a demo with other settings; notes the settings in a new one.

    Raises:
        FdlabError: code 2.
    """
    path = folder / "demo.json"
    if not path.is_file():
        foreign = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
        if foreign:
            raise FdlabError(
                f"{folder} is not empty and holds no demo.",
                f"It holds {', '.join(foreign[:3])}.",
                "Name another folder with --out; nothing there was touched.",
                code=USAGE,
            )
        write_json(path, question)
        return
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        old = None
    if old != question:
        raise FdlabError(
            f"{folder} holds a demo with other settings.",
            f"There: {old}; now: {question}.",
            "Give the old settings to continue it, or another folder with --out.",
            code=USAGE,
        )


def train(recipe: str, options: dict[str, Any], run: str, label: str, family: str, cost: int) -> float:
    """One training; returns its seconds."""
    from fdlab.study import training

    steps = int(options["run.steps"])
    begun = RunFolder(run)
    said = [_step_of(begun, steps)]
    report(round(cost * said[0] / steps))

    def tell(step: int) -> None:
        if step % 10 == 0 or step == steps:
            report(round(cost * (step - said[0]) / steps))
            said[0] = step

    planned = training.plan(recipe, options=options)
    training.run(planned, run, quiet=True, on_step=[tell], label=label, family=family)
    return float(RunFolder(run).facts().get("seconds", 0.0))


def _step_of(run: RunFolder, steps: int) -> int:
    """How far an earlier start came, by its log."""
    if run.finished:
        return steps
    return max((line.get("step", 0) for line in run.read_log()), default=0)


def measure_ruler(run: str, alpha: float, seed: int, record: str) -> float:
    """The measured attention distance of a model that had to look ``ideal_distance(alpha)`` px far.

    ``distance_weighted``: the mean over the first block's heads of the distance, weighted by
    1 - entropy / log N, so that heads which look nowhere in particular do not count.
    """
    from fdlab.checkpoints.open import open_model
    from fdlab.data.locality import ideal_distance
    from fdlab.data.sources import open_data
    from fdlab.probes.attention import measure_attention

    started = time.monotonic()
    question: dict[str, Any] = {"weights": stage.digest(run)}
    question |= {"version": __version__, "stage": "ruler", "alpha": alpha, "seed": seed, "images": RULER_IMAGES}
    if _answered(record, question):
        return 0.0
    encoder = open_model(run)
    images, _ = open_data(f"locality:{alpha:g}#test", seed=seed).stack(range(RULER_IMAGES), 32)
    measured = measure_attention(encoder, images, label=f"locality {alpha:g}", seed=seed)
    distance, entropy = measured.arrays["distance"][:, 0], measured.arrays["entropy"][:, 0]
    weight = 1 - entropy
    weighted = (distance * weight).sum(1) / weight.sum(1)
    value, low, high, _ = mean_interval(weighted, seed)
    common = {
        "model": f"locality {alpha:g}",
        "family": "supervised",
        "seed": seed,
        "probe": "ruler",
        "x": alpha,
    }
    facts = RunFolder(run).facts()
    rows = [
        {
            **common,
            "metric": "distance_weighted",
            "block": 0,
            "value": value,
            "low": low,
            "high": high,
            "n": len(weighted),
            "unit": "px",
        },
        {**common, "metric": "distance_ideal", "value": ideal_distance(alpha), "unit": "px"},
        {**common, "metric": "accuracy", "value": facts["accuracy"], "n": int(facts["count"])},
    ]
    heads = measured.table[(measured.table["block"] == 0) & measured.table["metric"].isin(["distance", "entropy"])]
    heads = heads[heads["head"].notna()].assign(probe="ruler", x=alpha, family="supervised")
    manifest = {**measured.manifest, "stage_question": question, "options": list(encoder.info.options)}
    manifest["seconds"] = time.monotonic() - started
    Record(join([frame(rows), heads]), {"distance_weighted": weighted}, manifest).save(record)
    report(PROBE_COST)
    return manifest["seconds"]


def measure_model(source: str, teacher: str, label: str, family: str, seed: int, record: str) -> float:
    """The attention probe, features over depth and ``teacher_r2`` of one model on the held-out digits."""
    from fdlab.checkpoints.open import open_model
    from fdlab.data.sources import open_data
    from fdlab.probes.attention import measure_attention
    from fdlab.probes.features import measure_features
    from fdlab.probes.teacher import measure_teacher_r2, position_mean_loss

    started = time.monotonic()
    question: dict[str, Any] = {"weights": [stage.digest(source.removeprefix("random:")), stage.digest(teacher)]}
    question |= {"version": __version__, "stage": "model", "source": source, "seed": seed, "images": HELD_OUT}
    question["features"] = list(FEATURES)
    if _answered(record, question):
        return 0.0
    encoder, target = open_model(source, seed=seed), open_model(teacher)
    test, train_images = open_data("digits#test"), open_data("digits#train")
    held, _ = test.stack(range(HELD_OUT), 24)
    fit, _ = train_images.stack(range(RIDGE_IMAGES), 24)
    measured = measure_attention(encoder, held, label=label, seed=seed)
    read_out = measure_teacher_r2(encoder, target, fit, held, label=label, family=family, seed=seed)
    features = measure_features(encoder, held, label=label, seed=seed, metrics=FEATURES)
    table = join([measured.table.assign(family=family), features.table.assign(family=family), read_out.table])
    manifest = {
        **measured.manifest,
        "stage_question": question,
        "teacher": target.info.sha256,
        "position_only_loss": position_mean_loss(target, fit, held),
        "options": list(encoder.info.options),
        "preprocessing": test.preprocessing,
        "skipped": test.skipped,
    }
    manifest["seconds"] = time.monotonic() - started
    grams = {name: features.arrays[name] for name in ("gram", "gram_sizes")}  # CKA between models follows from them
    Record(table, measured.arrays | read_out.arrays | grams, manifest).save(record)
    report(PROBE_COST)
    return manifest["seconds"]


def measure_curvature(source: str, label: str, family: str, seed: int, record: str) -> float:
    """The largest Hessian eigenvalue, raw and balanced, and the loss along random lines, on a few labelled digits."""
    from fdlab.checkpoints.open import open_model
    from fdlab.data.sources import open_data
    from fdlab.probes.hessian import measure_hessian
    from fdlab.probes.landscape import measure_landscape

    started = time.monotonic()
    question: dict[str, Any] = {"weights": [stage.digest(source)], "version": __version__, "stage": "curvature"}
    question |= {"source": source, "seed": seed, "images": CURVED}
    if _answered(record, question):
        return 0.0
    encoder, test = open_model(source), open_data("digits#test")
    images, labels = test.stack(range(CURVED), 24)
    common: dict[str, Any] = {"label": label, "labels": labels, "seed": seed, "batch": CURVED}
    tables = [
        measure_hessian(encoder, images, part=part, k=1, probes=0, **common).table for part in ("whole", "balanced")
    ]
    # Without probes there is no error of the trace, and no density: these rows are left out.
    kept = [table[table["metric"].isin(["eigenvalue_1", "eigenvalue_1_balanced"])] for table in tables]
    line = measure_landscape(encoder, images, what="line", points=11, span=0.4, **common)
    manifest = {**line.manifest, "stage_question": question, "seconds": time.monotonic() - started}
    Record(join([*kept, line.table]).assign(family=family), {}, manifest).save(record)
    report(CURVATURE_COST)
    return float(manifest["seconds"])


def measure_attributed(source: str, label: str, family: str, seed: int, maps: bool, record: str) -> float:
    """Which cells and which heads the cosine to the image's own feature rests on; with ``maps``, averaged maps too."""
    from fdlab.checkpoints.open import open_model
    from fdlab.data.sources import open_data
    from fdlab.probes.attention_maps import measure_attention_maps
    from fdlab.probes.attribution import PARTS, measure_attribution

    started = time.monotonic()
    question: dict[str, Any] = {"weights": [stage.digest(source.removeprefix("random:"))], "version": __version__}
    question |= {"stage": "attribution", "source": source, "seed": seed, "images": [ATTRIBUTED, AVERAGED * maps]}
    if _answered(record, question):
        return 0.0
    encoder = open_model(source, seed=seed)
    images, _ = open_data("digits#test").stack(range(AVERAGED), 24)
    found = [
        measure_attribution(
            encoder,
            images[:ATTRIBUTED],
            label=label,
            seed=seed,
            part=part,
            target="feature",
            steps=6,
            gradient_steps=12,
        )
        for part in PARTS
    ]
    if maps:
        found.append(measure_attention_maps(encoder, images, label=label, seed=seed, blocks=(0, -1)))
    manifest = {**found[0].manifest, "stage_question": question, "seconds": time.monotonic() - started}
    Record(join([one.table for one in found]).assign(family=family), {}, manifest).save(record)
    report(ATTRIBUTION_COST)
    return float(manifest["seconds"])


def _answered(record: str, question: dict[str, Any]) -> bool:
    if stage.answered(record, question):
        report(PROBE_COST)
        return True
    return False


def loss_curve(run: Path, label: str, family: str, stage: str) -> list[dict[str, Any]]:
    """A run's logged losses as rows of the table."""
    seed = RunFolder(run).facts()["seed"]
    lines = [line for line in RunFolder(run).read_log() if line.get("loss") is not None]
    return [
        {
            "model": label,
            "family": family,
            "seed": seed,
            "probe": "curve",
            "metric": "loss",
            "x": line["step"],
            "value": line["loss"],
            "objective": stage,
        }
        for line in lines
        if np.isfinite(line["loss"])
    ]
