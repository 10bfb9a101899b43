"""What is known beside the table of a report: ``facts.json`` with a name and a type for every key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The facts of a report; every one of them may be absent.

    ``written`` holds the mapping as it was read, with keys that have no name here, so that writing it again gives
    the same bytes.

    >>> facts = Facts.read({"images": 256, "my_key": 1})
    >>> facts.images, facts.data, facts.written["my_key"]
    (256, '', 1)
    """

    # What the page says first.
    title: str = ""
    question: str = ""
    claims: Sequence[Mapping[str, Any]] = ()  # verdicts: id, verdict, said, statement, effect, answers, ...
    findings: Sequence[Mapping[str, Any]] = ()  # ``compare.findings.Finding.fact`` with their sentences
    notes: Sequence[str] = ()
    limits: Sequence[str] = ()
    alerts: Sequence[str] = ()
    lost: Sequence[str] = ()  # measures that a study could not take
    # What was measured, on what.
    data: str = ""
    images: int | None = None
    images_by_probe: Mapping[str, int] = field(default_factory=dict)
    skipped_images: int = 0
    preprocessing: str = ""
    seed: int | Sequence[int] | None = None
    score: str = ""  # the fine-tuning score that measures are ranked by
    # The models, and how they stand to each other.
    order: Sequence[str] = ()
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # source and sha256 of each
    cohort: Sequence[Mapping[str, Any]] = ()  # rows of ``compare.cohort.Member``
    controls: Mapping[str, str] = field(default_factory=dict)  # model -> its untrained start
    compare: Sequence[str] = ()  # the two models that captions compare
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)  # model -> settings that are not the paper's
    # Uniform attention, in pixels of the model's input.
    uniform_px: Mapping[str, float] = field(default_factory=dict)
    uniform_by_block_px: Mapping[str, Sequence[float]] = field(default_factory=dict)
    ruler_uniform_px: float | None = None
    ruler_accuracy: Mapping[str, float] = field(default_factory=dict)
    # Training.
    budget: str = ""
    splits: Mapping[str, int] = field(default_factory=dict)  # labelled, validation, test -> images
    pretraining_images: int | None = None
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    training_loss: Mapping[str, float] = field(default_factory=dict)
    distil_loss: Mapping[str, float] = field(default_factory=dict)
    position_only_loss: float | None = None  # the distillation loss of predicting the position mean
    # How it was made.
    command: str = ""
    explorer: str = ""  # file of the attention explorer beside the page
    minutes: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    written: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> Facts:
        """The facts of a mapping as ``facts.json`` holds it; empty values count as absent."""
        names = {entry.name for entry in fields(cls)} - {"written"}
        known = {key: value for key, value in written.items() if key in names and value not in (None, "")}
        return cls(**known, written=dict(written))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of training and measuring, none where they are unknown."""
        if self.seed is None:
            return ()
        return (self.seed,) if isinstance(self.seed, int) else tuple(self.seed)
