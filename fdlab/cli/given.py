"""What a verb is told about a model or images that their files do not say: the same options wherever a SOURCE is taken.

``@given(models="models", data=("data",))`` adds ``--heads``, ``--activation``, ``--image-size``, ``--prefix-tokens``,
``--channels``, ``--value-range`` and ``--labels`` to a verb. The verb does not see them: they become part of the SOURCE
and DATA that it is called with (``SOURCE?heads=2``, ``DATA?range=0:4095``, ``DATA?labels=FILE``): records, recipes and
pages hold them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

from fdlab.cli import options
from fdlab.errors import USAGE, FdlabError

ABOUT_MODELS: dict[str, Any] = {
    "heads": options.Heads,
    "activation": options.Activation,
    "image_size": options.ImageSize,
    "prefix_tokens": options.PrefixTokens,
    "channels": options.Channels,
}
Verb = Callable[..., None]


def given(*, models: str = "", data: Sequence[str] = (), otherwise: str = "") -> Callable[[Verb], Verb]:
    """Adds the options about models, and about images where ``data`` is named.

    Args:
        models: the parameter that holds a SOURCE, or a list of them; empty: the verb has no model.
        data: the parameters that hold DATA; labels are those of the first.
        otherwise: where models may be named in another way, how these facts are stated then.
    """

    def decorated(verb: Verb) -> Verb:
        added: dict[str, Any] = dict(ABOUT_MODELS) if models else {}
        if data:
            added |= {"labels": options.LabelTable, "value_range": options.ValueRange}

        @functools.wraps(verb)
        def called(*args: Any, **known: Any) -> None:
            facts = {name: known.pop(name, None) for name in added}
            scale, table = facts.pop("value_range", None), facts.pop("labels", None)
            if models and not known.get("dry_run"):
                _there(known.get(models))
            if any(fact is not None for fact in facts.values()):
                known[models] = _told(known.get(models), facts, otherwise)
            if table is not None:
                _labelled(known, data[0], table)
            if scale is not None:
                _scaled(known, data, scale)
            verb(*args, **known)

        hints = get_type_hints(verb, include_extras=True)
        own = [
            p.replace(annotation=hints.get(p.name, p.annotation)) for p in inspect.signature(verb).parameters.values()
        ]
        place = next((n for n, p in enumerate(own) if p.name in ("out", "device", "report", "as_json")), len(own))
        kind = inspect.Parameter.KEYWORD_ONLY if own[place - 1].kind == inspect.Parameter.KEYWORD_ONLY else own[0].kind
        new = [inspect.Parameter(name, kind, default=None, annotation=hint) for name, hint in added.items()]
        called.__signature__ = inspect.Signature([*own[:place], *new, *own[place:]])  # type: ignore[attr-defined]
        called.__annotations__ = {**hints, **added}
        return called

    return decorated


def _there(source: Any) -> None:
    """Refuses mistyped paths before torch is imported."""
    from fdlab.checkpoints.sources import parse_label, refuse_absent

    for text in [source] if isinstance(source, str) else source or ():
        if text and text.rpartition("=")[2]:
            refuse_absent(parse_label(str(text))[1])


def _told(source: Any, facts: Mapping[str, Any], otherwise: str) -> Any:
    """The SOURCE, or each of the SOURCEs, with these facts behind it."""
    from fdlab.checkpoints.sources import with_facts

    if not source:
        names = ", ".join(f"--{name.replace('_', '-')}" for name, value in facts.items() if value is not None)
        raise FdlabError(
            f"{names} speaks of a model, and none is named here.",
            fix=otherwise or "Name the model on the command line too.",
            code=USAGE,
        )
    if isinstance(source, str):
        return with_facts(source, facts)
    return [with_facts(each, facts) for each in source]


def _labelled(known: dict[str, Any], data: str, table: str) -> None:
    from fdlab.data.sources import with_labels

    if not known.get(data):
        raise FdlabError("--labels speaks of images, and none are named here.", fix="Give --data too.", code=USAGE)
    known[data] = with_labels(known[data], table)


def _scaled(known: dict[str, Any], data: Sequence[str], scale: tuple[float, float]) -> None:
    from fdlab.data.sources import ranged

    named = [name for name in data if known.get(name)]
    if not named:
        raise FdlabError("--value-range speaks of images, and none are named here.", fix="Give --data too.", code=USAGE)
    for name in named:
        known[name] = ranged(known[name], scale)
