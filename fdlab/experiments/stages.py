"""Stages of the factorial study that are more than one training: few labels at the best rate, and the probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fdlab.errors import INTERRUPTED, USAGE, FdlabError
from fdlab.records.atomic import write_json
from fdlab.records.store import Record, Store
from fdlab.records.table import join
from fdlab.study import rate_search, stage
from fdlab.study.parallel import report
from fdlab.study.rate_search import Start
from fdlab.version import __version__


def few_labels(
    recipe: str,
    tuned: str,
    start: Start,
    rates: Sequence[float],
    settings: Mapping[str, Any],
    run: str,
    cost: int,
) -> None:
    """Fine-tunes with few labels at the model's own best rate of the search with all of them (folder ``tuned``)."""
    rate = rate_search.best_rate(Path(tuned), start, rates)
    after = start.after if rate else (*start.after, str(rate_search.run_of(Path(tuned), start, rates[0]).path))
    given = {**settings, "optim.lr": rate or rates[0]}
    stage.train(recipe, None, given, run, start.label, start.family, after, cost)


def measured(
    model: str,
    label: str,
    family: str,
    seed: int,
    probe: str,
    parts: Sequence[Mapping[str, Any]],
    data: str,
    images: int,
    record: str,
    after: Sequence[str],
    device: str,
    cost: int,
) -> None:
    """One probe on one model, as a record without arrays; nothing where the model diverged or the record is there.

    All models and seeds see the same images; ``seed`` is the training's. A probe that fails on one model does not stop
    the others: why is kept beside the record, and the next call tries again.
    """
    run = model.removeprefix("random:")
    question = {"model": stage.digest(run), "untrained": model != run, "seed": seed, "probe": probe}
    question |= {"parts": [dict(part) for part in parts], "data": data, "images": images}
    question["version"] = __version__
    if not stage.failure(run, after) and not stage.answered(record, question):
        from fdlab.checkpoints.open import open_model
        from fdlab.encoders.devices import pick_device
        from fdlab.probes.measure import measure

        opened = {label: open_model(model, seed=seed, device=pick_device(device))}
        store = Store(Path(record).parent.parent / "store")
        try:
            tables = [measure(probe, opened, data, images, 0, store=store, **part) for part in parts]
        except FdlabError as error:
            if error.code in (USAGE, INTERRUPTED):
                raise
            write_json(Path(record) / "failed.json", {"why": error.what})
        else:
            Record(join(tables).assign(family=family, seed=seed), {}, {"stage_question": question}).save(record)
            (Path(record) / "failed.json").unlink(missing_ok=True)
    report(cost)
