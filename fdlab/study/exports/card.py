"""The card of an exported model: what it is, where it comes from, how good it is, how it is used, where it ends."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fdlab.checkpoints.sources import parse_label
from fdlab.records.intervals import proportion_interval
from fdlab.study.exports.subject import Origin, Subject
from fdlab.study.exports.written import Written

LIBRARIES = {"timm": "timm", "hf": "transformers", "onnx": "onnx"}
SHOWN = 40  # classes that are listed


def model_card(subject: Subject, to: str, written: Written) -> str:
    """The text of README.md, with a front matter as model hubs read it. It names no path of this computer."""
    parts = [
        _front(subject, to),
        f"# {subject.name}",
        " ".join(_what(subject)),
        f"## Use\n\n```python\n{written.code}\n```",
        f"## Input and output\n\n{subject.preprocessing.words} Output: {subject.output}.",
        *([_classes(subject)] if subject.classes else []),
        "## Where it comes from\n\n" + "\n".join(f"- {line}" for line in _origin(subject)),
    ]
    if quality := list(_quality(subject)):
        parts.append("## How good it is\n\n" + "\n".join(f"- {line}" for line in quality))
    parts.append("## Limits\n\n" + "\n".join(f"- {line}" for line in (*_limits(subject), *written.notes)))
    return "\n\n".join(parts) + "\n"


def run_card(subject: Subject) -> str:
    """The card of a finished fine-tuning's own folder."""
    code = 'import fdlab\n\nclassifier = fdlab.load_classifier("FOLDER")\nprint(classifier.predict("photo.jpg"))'
    return model_card(subject, "run", Written((), code, None))


def _front(subject: Subject, to: str) -> str:
    kind = "image-classification" if subject.classifier else "image-feature-extraction"
    lines = [f"pipeline_tag: {kind}", "tags:", f"- {kind}", "- vision-transformer", "license: unknown"]
    if to in LIBRARIES:
        lines.insert(0, f"library_name: {LIBRARIES[to]}")
    return "\n".join(["---", *lines, "---"])


def _what(subject: Subject) -> Iterator[str]:
    info = subject.encoder.info
    height, width = subject.preprocessing.size
    count = len(subject.classes)
    what = f"A classifier of images with {count} classes" if subject.classifier else "An encoder of images"
    yield (
        f"{what}: {type(subject.encoder.module).__name__}, {info.depth} blocks, {info.heads} heads, width "
        f"{info.width}, patches of {info.patch_size} pixels, {info.parameters:,} parameters in the encoder, images "
        f"of {height}x{width} pixels."
    )


def _classes(subject: Subject) -> str:
    names = subject.classes
    assert subject.classifier is not None
    if not subject.classifier.named:
        return f"## Classes\n\n{len(names)} classes, numbered from 0; their names are not known."
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"## Classes\n\nIn the order of the outputs: {', '.join(names[:SHOWN])}{more}."


def _origin(subject: Subject) -> Iterator[str]:
    info = subject.encoder.info
    if subject.origin is None:
        yield f"Source: {subject.name} ({info.title or info.family})."
    else:
        yield from _of_run(subject.origin)
    yield f"Weights of the encoder: sha256 {info.sha256}."
    yield from (f"Assumed: {without_paths(text)}." for text in info.assumed)
    yield "Licence: not known to fdlab; the terms of the first model's publisher and of the images apply."


def _of_run(run: Origin) -> Iterator[str]:
    facts, own, data = run.facts, run.settings.get(run.task, {}), run.settings.get("data", {})
    yield f"Run {facts['label']} of task {run.task}, {facts.get('steps')} steps, seed {facts.get('seed')}."
    if start := str(own.get("model") or own.get("teacher") or ""):
        digest = next(iter(run.inputs.values()), "")
        word = "Teacher" if run.task == "distill" else "Start"
        yield f"{word}: {parse_label(start)[0]}" + (f" (sha256 {digest})." if digest else ".")
    count = f", {facts['labels']} labelled images" if facts.get("labels") else ""
    digest = str(facts.get("data_digest", ""))[:16]
    yield f"Trained on: {source_name(str(data.get('source', '')))}{count} (digest {digest})."
    yield from (f"Note of the training: {without_paths(note)}." for note in facts.get("notes", []))


def _quality(subject: Subject) -> Iterator[str]:
    if subject.origin is None or subject.classifier is None:
        return
    facts, settings = subject.origin.facts, subject.origin.settings
    if facts.get("count"):
        tested = source_name(str(settings.get("data", {}).get("test", "")))
        yield _share("Accuracy on test images", int(facts["correct"]), int(facts["count"]), tested)
    if facts.get("validation_count"):
        count = int(facts["validation_count"])
        chose = settings.get("save", {}).get("export") == "best"
        line = _share("Accuracy on validation images", round(facts["validation_accuracy"] * count), count, "")
        yield line + (" These images chose the step that was kept, so it is too high." if chose else "")


def _share(what: str, right: int, count: int, where: str) -> str:
    share = proportion_interval(right, count)
    of = f" ({where})" if where else ""
    low, high = 100 * share.low, 100 * share.high
    return f"{what}{of}: {100 * share.value:.1f} % (95 % interval {low:.1f} to {high:.1f}, n = {count})."


def _limits(subject: Subject) -> Iterator[str]:
    if subject.classifier:
        yield "Every picture gets one of its classes, also one that shows none of them."
        yield "The softmax is no calibrated probability."
    if subject.origin is not None:
        yield "It is one training; another seed gives another model, which no interval here speaks of."
    if not subject.preprocessing.stated:
        yield "How its training brought images to its size is not known: fdlab's own way is written here."
    published = subject.encoder.info.interpolation
    if subject.origin is None and published != subject.preprocessing.interpolation:
        yield f"Its publisher resizes images with {published} interpolation; fdlab measured it with the steps above."


def source_name(spec: str) -> str:
    """Images' name without the path that leads to them: the last part of a folder's path.

    >>> source_name("/home/me/photos/train#train[:100]"), source_name("mine?labels=/home/me/labels.csv")
    ('train#train[:100]', 'mine?labels=labels.csv')
    >>> source_name("")
    'not stated'
    """
    return re.sub(r"[^?&=#]*/([^/?&=#]*)", r"\1", spec.rstrip("/")) or "not stated"


def without_paths(text: str) -> str:
    """A sentence in which files go by their names alone.

    >>> without_paths("/home/me/x.png was left out; 3 of mine/train too")
    'x.png was left out; 3 of train too'
    """
    return re.sub(r"[^\s'\"(]*[/\\]([^\s/\\]*)", r"\1", text).rstrip(".")
