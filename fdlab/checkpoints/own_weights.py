"""Weights of a network that the user's own code builds: written by a training, loaded into what the code builds anew.

The file holds no network: it opens where a command names the code too, ``py:FILE.py:FUNCTION@RUN``, and is refused
alone, since no file and no run's folder runs code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fdlab.checkpoints.save import FORMAT, write_safetensors
from fdlab.checkpoints.sources import run_file
from fdlab.checkpoints.unpickle import fdlab_metadata, read_weights, refusal
from fdlab.encoders.student import stock_state


def save_own_weights(
    path: Path,
    module: nn.Module,
    *,
    code: str,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    family: str,
    seed: int,
) -> Path:
    """Writes every tensor of the network under its own name; ``code`` is the SOURCE that builds it, as text.

    ``image_size`` is what it was trained at, which may be another one than the code states.

    Raises:
        FdlabError: code 4, no space.
    """
    entry = {
        "format": FORMAT,
        "family": family,
        "seed": int(seed),
        "code": code,
        "image_size": int(image_size),
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
    }
    state = {name: tensor.clone() for name, tensor in stock_state(module).items()}
    return write_safetensors(path, state, {"fdlab": json.dumps(entry, sort_keys=True)})


@dataclass(frozen=True)
class OwnWeights:
    """The state dict of a network of the user's own, from a finished run or from any file; nothing in it is executed.

    ``image_size`` is what it was trained at, where fdlab trained it.
    """

    where: str
    path: Path
    state: Mapping[str, Tensor]
    image_size: int | None

    @classmethod
    def read(cls, where: str) -> OwnWeights:
        """Reads a run's folder or a file.

        Raises:
            FdlabError: code 3, there is none, or it cannot be read.
        """
        path = Path(where)
        if not path.exists():
            raise refusal(path, "does not exist.", "No file or run behind @ has this name.", "Check the path.")
        file = read_weights(run_file(path) if path.is_dir() else path)
        size = (fdlab_metadata(file) or {}).get("image_size")
        return cls(where, file.path, _tensors(file.content), size if type(size) is int and 0 < size < 8192 else None)

    @property
    def told(self) -> str:
        return f"weights of {self.where}" + (f", trained at {self.image_size} pixels" if self.image_size else "")

    def fill(self, module: nn.Module) -> None:
        """Loads every tensor into the network that it belongs to.

        Raises:
            FdlabError: code 3, its tensors are not those of this network; the first three that differ are named.
        """
        wanted, state = module.state_dict(), self.state
        faults = [f"{name} is missing" for name in wanted if name not in state]
        faults += [f"{name} belongs to no part of it" for name in state if name not in wanted]
        faults += [
            f"{name} is {tuple(state[name].shape)}, not {tuple(wanted[name].shape)}"
            for name in wanted
            if name in state and state[name].shape != wanted[name].shape
        ]
        if faults:
            raise refusal(
                self.path,
                f"does not fit {type(module).__name__}.",
                f"{'; '.join(faults[:3])}{f'; and {len(faults) - 3} more' if len(faults) > 3 else ''}.",
                "Let the function build the network of these weights, with the same arguments (#name=value).",
            )
        module.load_state_dict(state)


def _tensors(content: Any) -> dict[str, Tensor]:
    """The state dict itself, or the only one that a checkpoint holds under a name."""
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
