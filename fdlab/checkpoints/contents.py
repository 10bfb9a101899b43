"""A weight file seen by structure: its tables of tensors, and what its words say about the network.

Tables lie at the top or under names such as ``model``, ``teacher``, ``state_dict``; the words are
training arguments (``args``, ``arch``, ``config``) and the JSON files of a hub folder.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fdlab.checkpoints.limits import MAX_TABLES, MAX_TENSORS, checked_name
from fdlab.checkpoints.storages import PickleError
from fdlab.encoders.encoder import IMAGENET_MEAN, IMAGENET_STD

# Entries of training files that hold tensors, but no network.
NO_NETWORK = frozenset(
    {"optimizer", "opt", "optimizer_state_dict", "optimizers", "scaler", "amp", "amp_scaler", "fp16_scaler"}
    | {"loss_scaler", "lr_scheduler", "scheduler", "dino_loss", "ibot_loss", "criterion", "rng_state"}
)
# What DDP, torch.compile, DeepSpeed and activation checkpointing put between names; ``module`` only in front.
_WRAPPERS = frozenset({"_orig_mod", "_forward_module", "_checkpoint_wrapped_module"})
Fact = tuple[Any, str]


@dataclass(frozen=True)
class Contents:
    """``tables[""]`` holds the tensors that lie at the top; keys are without ``module.``.

    ``said`` is {fact: (value, where it stands)}; facts: arch, arguments, heads, head_width, image_size,
    norm_eps, activation, mean, std, interpolation, tag (of timm's names).
    """

    top: frozenset[str]
    tables: Mapping[str, Mapping[str, Tensor]]
    said: Mapping[str, Fact] = field(default_factory=dict)

    @classmethod
    def of(cls, content: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]] | None = None) -> Contents:
        return cls(frozenset(map(str, content)), _tables(content), {**_words(content), **_folder_words(configs or {})})

    def below(self, table: str, prefix: str) -> Contents:
        """What lies under a prefix of one table, as if it were a file of its own."""
        inside = {k.removeprefix(prefix): v for k, v in self.tables[table].items() if k.startswith(prefix)}
        return Contents(frozenset(inside), {"": inside}, self.said)

    @property
    def arch(self) -> str | None:
        return self.value("arch")

    def value(self, name: str) -> Any:
        """The fact's value, or None."""
        return self.said[name][0] if name in self.said else None


def _tables(content: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """{name: tensors} of this mapping and of those inside it, outermost first.

    Inner ones go by their own name; where two have the same, all by their full, dotted one, so that none is
    taken for the other. A mapping that is shared is looked at once.
    """
    found: list[tuple[tuple[str, ...], dict[str, Tensor]]] = []
    visited, tensors = {id(content)}, 0
    level: list[tuple[tuple[str, ...], Mapping[str, Any]]] = [((), content)]
    for _ in range(4):
        below: list[tuple[tuple[str, ...], Mapping[str, Any]]] = []
        for path, mapping in level:
            if table := _tensors(mapping):
                found.append((path, table))
                tensors += len(table)
            if tensors > MAX_TENSORS or len(visited) > MAX_TABLES:
                raise PickleError(f"it holds more than {MAX_TENSORS:,} tensors or {MAX_TABLES:,} tables")
            for name, value in mapping.items():
                if isinstance(value, Mapping) and str(name) not in NO_NETWORK and id(value) not in visited:
                    visited.add(id(value))
                    below.append(((*path, checked_name(str(name)[:2000])), value))
        level = below
    often = Counter(path[-1:] for path, _ in found)
    return {".".join(path if often[path[-1:]] > 1 else path[-1:]): table for path, table in found}


def _tensors(mapping: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors by unwrapped key; keys that would meet stay as they are, and are then reported as unknown."""
    named = {str(key): value for key, value in mapping.items() if isinstance(value, Tensor)}
    often = Counter(map(unwrapped, named))
    return {(unwrapped(key) if often[unwrapped(key)] == 1 else key): value for key, value in named.items()}


def unwrapped(key: str) -> str:
    """The key without what DDP, DeepSpeed, torch.compile and activation checkpointing add to it.

    >>> unwrapped("module._orig_mod.blocks.0._checkpoint_wrapped_module.norm1.weight")
    'blocks.0.norm1.weight'
    """
    names = [name for name in key.split(".") if name not in _WRAPPERS]
    first = next((place for place, name in enumerate(names) if name != "module"), len(names) - 1)
    return ".".join(names[first:]) or key


def _words(content: Mapping[str, Any]) -> dict[str, Fact]:
    """Facts in a training file's own entries."""
    said: dict[str, Fact] = {}
    args = content.get("args")
    named = vars(args) if isinstance(args, argparse.Namespace) else args if isinstance(args, Mapping) else {}
    for name, where, entry in (
        ("arch", "the file's arch", content.get("arch")),
        ("arch", "args.model", named.get("model")),
        ("arch", "the file's arch", named.get("arch")),
        ("model_name", "the file's name entry", content.get("name")),
    ):
        if isinstance(entry, str):
            said[name] = (entry, where)
    if isinstance(named.get("model_kwargs"), Mapping):  # timm's training script
        extra = {"img_size": named.get("img_size"), "global_pool": named.get("gp")}
        arguments = {key: value for key, value in extra.items() if isinstance(value, int | str)}
        said["arguments"] = ({**named["model_kwargs"], **arguments}, "args.model_kwargs")
    if isinstance(named.get("imagenet_default_mean_and_std"), bool):  # BEiT's and data2vec's code
        imagenet = named["imagenet_default_mean_and_std"]
        where = "args.imagenet_default_mean_and_std"
        said["mean"] = (IMAGENET_MEAN if imagenet else (0.5, 0.5, 0.5), where)
        said["std"] = (IMAGENET_STD if imagenet else (0.5, 0.5, 0.5), where)
    said |= _trainer_words(content)
    config = content.get("config")
    if isinstance(config, Mapping) and {"DATA", "MODEL"} & set(map(str, config)):
        # yacs, as the Swin, SimMIM and feature-distillation code saves it
        said["training"] = (config, "the file's config")
        size = _inside(config, "DATA", "IMG_SIZE")
        if isinstance(size, int):
            said["image_size"] = (size, "the file's config (DATA.IMG_SIZE)")
    return said


def _trainer_words(content: Mapping[str, Any]) -> dict[str, Fact]:
    """What Lightning's hyper parameters and LightlyTrain's entries say."""
    said: dict[str, Fact] = {}
    given = content.get("hyper_parameters")
    named: Mapping[Any, Any] = given if isinstance(given, Mapping) else {}
    for name in ("arch", "model_name", "architecture", "model", "backbone"):
        if isinstance(named.get(name), str) and "arch" not in said and "arch" not in content:
            said["arch"] = (named[name], f"the file's hyper_parameters ({name})")
    normalise = _inside(content, "lightly_train", "normalize_args")
    if isinstance(normalise, Mapping):
        _keep(said, normalise, "the file's lightly_train.normalize_args", mean="mean", std="std")
    return said


def _inside(config: Any, *path: str) -> Any:
    for name in path:
        config = config.get(name) if isinstance(config, Mapping) else None
    return config


def _folder_words(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Fact]:
    """Facts in the JSON files beside the weights (Hugging Face, timm, open_clip)."""
    said: dict[str, Fact] = {}
    config = configs.get("config.json", {})
    if "architecture" in config:
        said["arch"] = (config["architecture"], "config.json")
        said["arguments"] = (dict(config.get("model_args") or {}), "config.json")
        cfg = config.get("pretrained_cfg") or {}
        _keep(said, cfg, "config.json", mean="mean", std="std", interpolation="interpolation", tag="tag")
    elif "model_type" in config or "vision_config" in config:
        vision = config.get("vision_config") or config.get("backbone_config")  # of whole CLIP models; of UPerNet
        _keep(
            said,
            vision if isinstance(vision, Mapping) else config,
            "config.json",
            heads="num_attention_heads",
            image_size="image_size",
            norm_eps="layer_norm_eps",
            activation="hidden_act",
            model_type="model_type",
            hidden_size="hidden_size",
            num_hidden_layers="num_hidden_layers",
            patch_size="patch_size",
            rope_temperature="rope_theta",
            window_size="window_size",
            pretrained_window_sizes="pretrained_window_sizes",
        )
        _keep(
            said,
            vision if isinstance(vision, Mapping) else config,
            "config.json",
            norm_eps="rms_norm_eps",
        )
    _keep(
        said,
        configs.get("preprocessor_config.json", {}),
        "preprocessor_config.json",
        mean="image_mean",
        std="image_std",
    )
    clip = configs.get("open_clip_config.json", {})
    if isinstance(clip.get("model_cfg"), Mapping):
        model = clip["model_cfg"]
        quick = "quick_gelu" if model.get("quick_gelu") else "gelu"
        said["activation"] = (quick, "open_clip_config.json")
        said["head_width"] = ((model.get("vision_cfg") or {}).get("head_width", 64), "open_clip_config.json")
        _keep(said, clip.get("preprocess_cfg") or {}, "open_clip_config.json", mean="mean", std="std")
    return said


def _keep(said: dict[str, Fact], entries: Mapping[str, Any], where: str, **names: str) -> None:
    """Copies the named entries that are there; mean and std as tuples."""
    for fact, name in names.items():
        value = entries.get(name)
        if value is not None:
            said[fact] = (tuple(value) if isinstance(value, list) else value, where)
