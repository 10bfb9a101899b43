"""A module to be understood: what runs it, at which size, and whether its answers can be relied on at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fdlab.encoders import inference
from fdlab.encoders.anatomy import Run
from fdlab.encoders.encoder import IMAGENET_MEAN, IMAGENET_STD, Size, pair
from fdlab.encoders.hf_objects import colours_of, processor_of, runs_on_images, stated_square
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TOLERANCE = 1e-3  # of an image alone against the same image in a batch; sound networks are at 4e-7


@dataclass
class Subject:
    """One module and what the caller gives of it; ``said`` and ``assumed`` grow as it is understood."""

    given: nn.Module
    forward: Run | None
    tokens: str | Callable[[nn.Module, Tensor], Tensor] | None
    prefix: int | Sequence[str] | None
    grid: tuple[int, int] | None
    blocks: str | Sequence[str] | None
    check: bool
    live: bool = True
    said: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)

    def take(self, name: str, channels: int | None) -> None:
        """Finds what is read: the inner module, its device and channels.

        Raises:
            FdlabError: it is no module, has no parameters, or is one that cannot be read.
        """
        module = self.module = self._unwrapped(self.given)
        self.title = name or type(module).__name__
        first = next((p for p in module.parameters() if p.dtype in FLOATS), None)
        if first is None:
            raise FdlabError(f"{self.title} has no parameters.", fix="Pass a network with weights.", code=USAGE)
        self.device, self.dtype = first.device, first.dtype
        if self.forward is None and (run := runs_on_images(module)) is not None:
            self.forward = run[0]
            self.said.append(f"run: {run[1]}")
        self.channels = channels or inference.in_channels(module)

    # --- the module -----------------------------------------------------------------------------------------

    def _unwrapped(self, module: nn.Module) -> nn.Module:
        if not isinstance(module, nn.Module):
            raise FdlabError(
                f"{type(module).__name__} is no torch.nn.Module.", fix="Pass a module, or its file.", code=USAGE
            )
        while True:
            if isinstance(getattr(module, "_orig_mod", None), nn.Module):
                module = module._orig_mod  # type: ignore[assignment]
                self.said.append("compiled: read as it was before compiling")
            elif isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
                module = module.module
                self.said.append("parallel: its inner module is read")
            else:
                break
        kind = ""
        if isinstance(module, torch.jit.ScriptModule):
            kind = "compiled to a program by torch.jit"
        elif type(module).__module__.startswith("torch.fx") or hasattr(module, "_is_exported_program"):
            kind = "an exported program"
        elif any(tensor.is_meta for tensor in module.parameters()):
            kind = "on meta: it has no values"
        elif any(type(tensor).__name__ == "DTensor" for tensor in module.parameters()):
            kind = "sharded over processes"
        if kind:
            raise FdlabError(
                f"{type(module).__name__} cannot be read.",
                f"It is {kind}.",
                "Pass the module as it was before.",
                code=NOT_UNDERSTOOD,
            )
        return module

    def noise(self, images: int, size: tuple[int, int] | None = None, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(images, self.channels, *(size or self.size), generator=generator)
        return noise.to(device=self.device, dtype=self.dtype)

    def run(self, images: Tensor) -> Any:
        return self.forward(self.module, images) if self.forward is not None else self.module(images)

    def colours(self, mean: Any, std: Any) -> Any:
        """mean and std: given, else of the module's own settings, else ImageNet's, said."""
        if (mean is None) != (std is None):
            raise FdlabError("mean and std belong together.", fix="Give both, or neither.", code=USAGE)
        if mean is not None:
            pairs = tuple(map(float, mean)), tuple(map(float, std))
            if len(pairs[0]) != len(pairs[1]) or not all(value > 0 for value in pairs[1]):
                raise FdlabError(
                    "mean and std are not right.", f"{pairs}", "Give a number a channel; std above 0.", code=USAGE
                )
            return pairs
        for part in self.module.modules():
            for field_name in ("pretrained_cfg", "preprocess_cfg"):
                settings = getattr(part, field_name, None)
                if isinstance(settings, dict) and len(settings.get("mean") or ()) == self.channels:
                    self.said.append(f"mean and std: from {field_name}")
                    return tuple(settings["mean"]), tuple(settings["std"])
            if len(getattr(part, "image_mean", None) or ()) == self.channels:
                self.said.append("mean and std: from image_mean")
                return tuple(part.image_mean), tuple(part.image_std)  # type: ignore[arg-type]
        if (found := colours_of(processor_of(self.module))) is not None and len(found[0]) == self.channels:
            self.said.append("mean and std: from the processor beside its weights")
            return found
        if self.channels != 3:
            self.assumed.append("mean 0 and std 1 assumed: the module states none")
            return (0.0,) * self.channels, (1.0,) * self.channels
        self.assumed.append("ImageNet's mean and std assumed: the module states none (mean=, std=)")
        return IMAGENET_MEAN, IMAGENET_STD

    # --- size and soundness ---------------------------------------------------------------------------------

    def find_size(self, given: Size | None) -> None:
        """The image size: given, stated, of the position table, or the only usual one that runs.

        Raises:
            FdlabError: code 3, two sizes fit, or none.
        """
        self.size = self._size(given)

    def _size(self, given: Size | None) -> tuple[int, int]:
        if given is not None:
            self.said.append(f"image size {sides(pair(given))}: given")
            return self._must_run(pair(given))
        stated, table = inference.stated_size(self.module), inference.size_of_table(self.module, self.channels)
        for found in (stated, stated_square(self.module), table):
            if found is not None and self._runs(found[0]):
                self.said.append(f"image size {sides(found[0])}: from {found[1]}")
                return found[0]
        if table is None and stated is None and not self._runs_somewhere():
            self._must_run((224, 224))
        size = inference.size_that_runs(self.module, self._runs)
        self.said.append(f"image size {sides(size)}: the only usual size that it runs at")
        return size

    def _runs(self, size: tuple[int, int]) -> bool:
        try:
            self.run(self.noise(1, size))
        except Exception:  # any size of any author's module may fail in any way
            return False
        return True

    def _runs_somewhere(self) -> bool:
        return any(self._runs((side, side)) for side in inference.USUAL)

    def _must_run(self, size: tuple[int, int]) -> tuple[int, int]:
        try:
            self.run(self.noise(1, size))
        except Exception as error:
            line = (str(error).strip().splitlines() or [""])[0][:160]
            raise FdlabError(
                f"{self.title} does not run on images of {sides(size)} pixels alone.",
                f"{type(error).__name__}: {line}",
                "Give image_size= (SOURCE?image_size=N), or forward=(module, images) -> output.",
                code=NOT_UNDERSTOOD,
            ) from error
        return size

    def check_sound(self) -> None:
        """Two passes agree, and an image's answer does not depend on its batch."""
        both = self.noise(2)
        first, again, alone = (_flat(self.run(images)) for images in (both, both, both[:1]))
        if any(not torch.equal(a, b) for a, b in zip(first, again, strict=True)):
            raise FdlabError(
                f"Two passes of {self.title} differ in eval mode.",
                "It draws random numbers (noise, masks, dropout without training=self.training).",
                "Give forward= that fixes them.",
                code=NOT_UNDERSTOOD,
            )
        if any(not a.isfinite().all() for a in first if a.is_floating_point()):
            raise FdlabError(
                f"{self.title} gives numbers that are not finite.",
                "Noise images make NaN or infinity.",
                "Take weights of before the training diverged, or float32.",
                code=NOT_UNDERSTOOD,
            )
        for one, two in zip(first, alone, strict=False):
            batch = next((axis for axis in (0, 1) if one.ndim > axis and one.shape[axis] == 2 * two.shape[axis]), None)
            if batch is None or not one.is_floating_point():
                continue
            a, b = one.narrow(batch, 0, two.shape[batch]).double(), two.double()
            loose = 50 if one.dtype in (torch.float16, torch.bfloat16) else 1
            if float((a - b).norm()) > loose * TOLERANCE * max(float(b.norm()), 1e-12):
                raise FdlabError(
                    "The answer for an image depends on its batch.",
                    "BatchNorm without running statistics, or dynamic quantisation.",
                    "Measure the float model in eval mode.",
                    code=NOT_UNDERSTOOD,
                )


def _flat(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if hasattr(output, "values") and callable(output.values):
        output = list(output.values())
    return [tensor for item in output for tensor in _flat(item)] if isinstance(output, (tuple, list)) else []


def sides(size: tuple[int, int]) -> str:
    """HEIGHTxWIDTH."""
    return f"{size[0]}x{size[1]}"
