"""``open_model``: a file, a run's folder, a timm name, a repository, ``random:...`` becomes an ``Encoder``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from fdlab.checkpoints.builders.timm_name import kind_of_name
from fdlab.checkpoints.hf_module import KIND, as_file, differs
from fdlab.checkpoints.hub import fetch
from fdlab.checkpoints.own_code import open_code, open_live
from fdlab.checkpoints.recognise import recognise
from fdlab.checkpoints.save import OwnFile, own_file
from fdlab.checkpoints.soundness import not_finite, refuse_not_finite
from fdlab.checkpoints.sources import is_code, is_hub, on_disk, read_facts, run_file, split_facts
from fdlab.checkpoints.unpickle import AGAIN, WeightFile, read_weights, refusal
from fdlab.encoders.channels import as_told
from fdlab.encoders.devices import pick_device
from fdlab.encoders.encoder import (
    Encoder,
    Kind,
    Size,
    TimmCall,
    check_activation,
    known_by_names,
    set_activation,
)
from fdlab.encoders.hf_objects import fresh, inner, is_hf
from fdlab.encoders.student import build, fold_bias_scale, seeded, timm_call
from fdlab.encoders.wrap import wrap, wrap_opened
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError, nearest
from fdlab.randomness import seed_for


def open_model(
    source: str | Path | torch.nn.Module | Encoder,
    *,
    encoder: str | None = None,
    heads: int | None = None,
    image_size: Size | None = None,
    activation: str | None = None,
    prefix_tokens: int | None = None,
    channels: int | None = None,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> Encoder:
    """Opens any model that fdlab knows, in eval mode.

    Args:
        source: a weight file, a run folder, ``timm:NAME`` or NAME (published weights through timm),
            ``hf:OWNER/NAME[@REVISION]`` (a repository of the Hugging Face Hub: its safetensors are fetched), a module
            of your own (wrapped where it lies, as ``fdlab.wrap`` does) or an ``Encoder``, ``py:FILE.py:FUNCTION`` (your
            own code builds it, see docs/own_modules.md), ``random:FILE_OR_RUN_OR_NAME`` (that architecture before
            its first step), each with ``@teacher`` or the like where a file holds several networks.
        encoder: the network to take, the same as ``@NAME``.
        heads: attention heads, where the file does not say.
        image_size: pixels, int or (height, width); position tables are resized by the family's method.
        activation: replaces the MLPs' activation, e.g. ``quick_gelu``.
        prefix_tokens: how many tokens stand before the patches, to be checked: the file's tensors decide.
        channels: the input channels of a model that takes other than 3: it is then opened for colour images, of which
            it sees the mean of the channels, repeated ``channels`` times.
            ``SOURCE?heads=2&image_size=224`` says the same of one model as the arguments do, which come first.
        seed: of ``random:``.

    Raises:
        FdlabError: code 3 where the source is not understood, 2 where an argument is wrong.
    """
    where = pick_device(device)
    if isinstance(source, Encoder):
        return source
    if isinstance(source, torch.nn.Module):
        for name, value in (("heads", heads), ("activation", activation), ("encoder", encoder)):
            if value is not None:
                raise FdlabError(
                    f"{type(source).__name__} is a module.", f"It decides on {name}.", f"Leave {name} out.", code=USAGE
                )
        return open_module(source, image_size=image_size, prefix=prefix_tokens, device=where)
    base, behind = split_facts(str(source))
    facts = read_facts(behind)
    heads, activation = heads or facts.get("heads"), activation or facts.get("activation")
    image_size = image_size or facts.get("image_size")
    if activation is not None:
        check_activation(activation)
    if is_code(base) or base.startswith("live:"):
        return _open_own_code(base, behind, where, heads, activation, encoder, image_size, prefix_tokens, seed)
    text = str(source)
    is_random = base.startswith("random:")
    copy = fetch(base) if is_hub(base) and on_disk(base) is None else None
    path, suffix = (copy.folder, None) if copy else _locate(base.removeprefix("random:"))
    if suffix and encoder and suffix != encoder:
        raise FdlabError(
            f"{text} names '@{suffix}', but encoder= names '{encoder}'.", fix="Give one of them.", code=USAGE
        )
    asked = _Asked(text, encoder or suffix, heads, image_size, activation, seed if is_random else None)
    opened = _open_file(path, asked) if isinstance(path, Path) else _open_timm(path, asked)
    if copy is not None:
        said = (*copy.said, *opened.info.assumed)
        opened.info = replace(opened.info, repository=f"{copy.repo}@{copy.commit}", assumed=said)
    known = {"prefix_tokens": prefix_tokens, "channels": channels}
    return as_told(opened, **{name: facts.get(name) if value is None else value for name, value in known.items()}).to(
        where
    )


def _open_own_code(
    base: str, behind: str, where: torch.device, heads: Any, activation: Any, encoder: Any, image_size: Any,
    prefix: Any, seed: int,
) -> Encoder:  # fmt: skip
    """A model of the user's own code: what a file's reader would be told, the code says itself."""
    for name, value in (("heads", heads), ("activation", activation), ("encoder", encoder)):
        if value is not None:
            raise FdlabError(
                f"{base} is built by your own code.", f"It decides on {name}.", f"Leave {name} out.", code=USAGE
            )
    if base.startswith("live:"):
        return open_live(base).to(where)
    prefix = read_facts(behind).get("prefix_tokens") if prefix is None else prefix
    random = seed if base.startswith("random:") else None
    return open_code(base.removeprefix("random:"), seed=random, image_size=image_size, prefix=prefix).to(where)


def open_module(
    module: torch.nn.Module,
    *,
    name: str = "",
    image_size: Size | None = None,
    prefix: int | None = None,
    device: torch.device | None = None,
) -> Encoder:
    """A module of this process: one of transformers by the reader of its files, as a copy; any other where it lies.

    Raises:
        FdlabError: as ``fdlab.wrap``.
    """
    why = ""
    if is_hf(inside := inner(module)) and not any(tensor.is_meta for tensor in inside.parameters()):
        encoder = _as_its_files(inside)
        why = differs(inside, encoder) if encoder is not None else ""
        if encoder is not None and not why:
            encoder = encoder if image_size is None else _open_object(inside, image_size)
            return as_told(encoder, prefix_tokens=prefix, channels=None).to(device or "cpu")
    wrapped = wrap(module, name=name, image_size=image_size, prefix=prefix)
    if why:
        said = f"not opened as its files are, since {why}: the object itself is read"
        wrapped.info = replace(wrapped.info, assumed=(*wrapped.info.assumed, said))
    return wrapped


def _as_its_files(module: torch.nn.Module) -> Encoder | None:
    """The object as its folder would open, or None where no reader knows it."""
    try:
        return _open_object(module, None)
    except FdlabError:
        return None


def _open_object(module: torch.nn.Module, image_size: Size | None) -> Encoder:
    """An object of transformers as its folder would open, with its own initialiser for the untrained control."""
    file = as_file(module)
    encoder = _open_foreign(file, _Asked(f"{file.path} ({KIND})", None, None, image_size, None, None))
    encoder.untrained = fresh(module)
    return encoder


@dataclass(frozen=True)
class _Asked:
    """What the caller of ``open_model`` wants; ``random_seed`` is None for trained weights."""

    text: str
    encoder: str | None
    heads: int | None
    image_size: Size | None
    activation: str | None
    random_seed: int | None


def _locate(text: str) -> tuple[Path | str, str | None]:
    """(path or timm name, suffix after @). An existing path wins over everything, whatever its name."""
    if (found := on_disk(text)) is not None:
        return found
    if text.startswith("timm:"):
        return text.removeprefix("timm:"), None
    import timm

    base, at, suffix = text.rpartition("@")
    base = base if at else text
    if "/" not in base and timm.is_model(base):
        return base, suffix if at else None
    if "/" in base or Path(base).suffix in (".pth", ".pt", ".bin", ".safetensors", ".tar", ".ckpt"):
        raise refusal(Path(base), "does not exist.", "No file or folder has this name.", "Check the path.")
    raise FdlabError(
        f"'{text}' is no file, run folder or timm model.",
        fix=f"Give a path, timm:NAME or random:NAME.{nearest(base, timm.list_models())}",
        code=NOT_UNDERSTOOD,
    )


def _open_file(path: Path, asked: _Asked) -> Encoder:
    try:
        path = run_file(path) if path.is_dir() else path
        file = read_weights(path)
        own = own_file(file)
        return _open_foreign(file, asked) if own is None else _open_own(own, asked)
    except (OSError, OverflowError, RecursionError) as error:  # a name or a number of any size, in the file's words
        why = getattr(error, "strerror", "") or f"{type(error).__name__}: {str(error)[:160]}"
        fix = "Check its permissions." if isinstance(error, PermissionError) else AGAIN
        raise refusal(path, "cannot be read.", f"{why}.", fix) from error


def _open_own(own: OwnFile, asked: _Asked) -> Encoder:
    path = own.file.path
    if asked.encoder not in (None, "encoder", path.stem) or asked.heads is not None:
        raise FdlabError(
            f"{path} is fdlab's own.",
            "It holds one network and its head count.",
            "Leave encoder= and heads= out.",
            code=USAGE,
        )
    said: tuple[str, ...] = tuple(map(str, own.card.get("assumed", ())))
    if asked.random_seed is None:
        module, call, resized = own.module(image_size=asked.image_size)
        said += resized
    elif own.design is None:
        raise FdlabError(
            f"{path} has no untrained form.",
            "It was not built from a design.",
            "Give random: with the original file.",
            code=USAGE,
        )
    else:
        design = own.design if asked.image_size is None else replace(own.design, image_size=asked.image_size)
        module, call = build(design, seed=asked.random_seed), timm_call(design)
        fold_bias_scale(module)
    return _finish(
        module,
        call,
        asked,
        family=own.entry["family"],
        mean=own.mean,
        std=own.std,
        taken="encoder",
        options=tuple(own.entry["options"]),
        interpolation=str(own.card.get("interpolation", "bicubic")),
        **({"kind": own.card["kind"]} if own.card.get("kind") in get_args(Kind) else {}),
        **{name: str(own.card.get(name, "")) for name in ("title", "heads_from", "positions")},
        assumed=said,
        container=own.file.kind,
    )


def _open_foreign(file: WeightFile, asked: _Asked) -> Encoder:
    try:
        found = recognise(
            file, encoder=asked.encoder, heads=asked.heads, image_size=asked.image_size, activation=asked.activation
        )
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # A changed file can hold tensors of shapes that no rule foresees; FdlabError is none of these types.
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}."
        raise refusal(file.path, "holds tensors that fit no layout.", why, AGAIN) from error
    family, said = found.family, found.assumed
    if asked.random_seed is not None:
        said = (*said, "random weights by timm's initialiser for this class, not the authors' own")
    if file.stubs:
        said = (*said, f"not loaded, for safety: {', '.join(file.stubs[:6])}")
    return _finish(
        found.module(random_seed=asked.random_seed),
        found.call,
        asked,
        family=family.name,
        taken=found.taken,
        others=found.others,
        assumed=said,
        container=f"{file.kind}: {found.container}",
        **found.known,
    )


def _open_timm(name: str, asked: _Asked) -> Encoder:
    import timm

    if asked.encoder or asked.heads:
        raise FdlabError(
            f"{asked.text} is a timm model.", "encoder= and heads= are for files.", "Leave them out.", code=USAGE
        )
    if not timm.is_model(name):
        raise FdlabError(
            f"timm has no model '{name}'.",
            f"This is timm {timm.__version__}.",
            f"See timm.list_models().{nearest(name, timm.list_models())}",
            code=NOT_UNDERSTOOD,
        )
    is_random = asked.random_seed is not None
    kwargs: dict[str, Any] = {"model_name": name}
    if is_random:
        kwargs["num_classes"] = 0
    if asked.image_size is not None:
        kwargs["img_size"] = asked.image_size
    try:
        with seeded(seed_for(asked.random_seed or 0, "construct")):
            module: Any = _created(kwargs, pretrained=not is_random)
    except Exception as error:  # hub, network, disk and argument errors come in many types
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
        if is_random:
            raise FdlabError(
                f"timm could not make '{name}'.", why, "Check the name and image_size=.", code=NOT_UNDERSTOOD
            ) from error
        raise FdlabError(
            f"The published weights of '{name}' could not be loaded.",
            f"No network? {why}",
            "Connect to the network, or give a weight file.",
            code=NOT_UNDERSTOOD,
        ) from error
    cfg = module.pretrained_cfg
    return _finish(
        module,
        TimmCall("timm.create_model", {"pretrained": False, **kwargs}),
        asked,
        family="timm",
        timm_name=name,
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        container="timm",
        taken="model",
        kind=kind_of_name(name if "." in name else f"{name}.{cfg.get('tag') or ''}"),
        interpolation=cfg.get("interpolation") or "bicubic",
    )


def _created(kwargs: dict[str, Any], *, pretrained: bool) -> Any:
    """timm's model; a class of any size (CNNs) has no ``img_size``: its settings say the size then."""
    import timm

    try:
        return timm.create_model(pretrained=pretrained, **kwargs)
    except TypeError as error:
        if "img_size" not in str(error) or "img_size" not in kwargs:
            raise
        size = kwargs.pop("img_size")
        height, width = (size, size) if isinstance(size, int) else size
        kwargs["pretrained_cfg_overlay"] = {"input_size": (3, int(height), int(width))}
        return timm.create_model(pretrained=pretrained, **kwargs)


def _finish(module: torch.nn.Module, call: TimmCall, asked: _Asked, **known: Any) -> Encoder:
    if asked.activation is not None:
        set_activation(module, asked.activation)
        said = f"activation {asked.activation}: given by the user"
        known["assumed"] = tuple(dict.fromkeys((*known.get("assumed", ()), said)))
    if asked.random_seed is None and (name := not_finite(module.named_parameters())):
        raise refuse_not_finite(asked.text, name, dict(module.named_parameters()))
    if asked.random_seed is not None:
        known |= {"taken": f"random weights, seed {asked.random_seed}", "kind": "random"}
    if not known_by_names(module):
        return wrap_opened(module, call=call, image_size=asked.image_size, source=asked.text, **known)
    return Encoder.wrap(module, call=call, source=asked.text, **known)
