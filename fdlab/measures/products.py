"""Exact products with the Hessian or the Gauss-Newton matrix of a mean loss, micro-batch by micro-batch.

The curvature is that of the mean over all images: a micro-batch of n_i of N images weighs n_i / N, a short last
one included. PyTorch's fused attention kernels have no second derivative, so products run under the plain
("math") kernel; the caller's choice is back afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel

from fdlab.errors import FAILED, NOT_UNDERSTOOD, OUT_OF_SPACE, USAGE, FdlabError
from fdlab.measures.basis import free_memory

Loss = Callable[[Any], Tensor]
Product = Callable[[Tensor], Tensor]
Parts = Sequence[Tensor | None]
Pieces = Sequence[Tensor]
# one micro-batch: (vector by parameter, whether it is asked again) -> the product by parameter
Pass = Callable[[Pieces, bool], Parts]


@contextmanager
def exact_kernels(device: torch.device | str = "cpu") -> Iterator[None]:
    """Twice differentiable attention and ``full_precision``; the caller's choices are restored on the way out."""
    with sdpa_kernel(SDPBackend.MATH), full_precision(device):
        yield


@contextmanager
def full_precision(device: torch.device | str = "cpu") -> Iterator[None]:
    """No autocast, no TF32; the caller's choices are restored on the way out."""
    kind = torch.device(device).type
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(kind, enabled=False))
        if kind == "cuda":
            before = torch.get_float32_matmul_precision()
            stack.callback(torch.set_float32_matmul_precision, before)
            torch.set_float32_matmul_precision("highest")
            stack.enter_context(torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False))
        yield


class Curvature:
    """The symmetric matrix of second derivatives of a mean loss, known by its products with vectors.

    Args:
        parameters: the P numbers that it is taken over, as tensors; others are held fixed.
        batches: fixed micro-batches; a new random one at each product would break Lanczos.
        sizes: images in each.

    ``products`` counts passes over all batches.
    """

    def __init__(self, parameters: Sequence[Tensor], batches: Sequence[Any], sizes: Sequence[int]) -> None:
        self.parameters, self.batches, self.sizes = list(parameters), list(batches), list(sizes)
        self.size = sum(p.numel() for p in self.parameters)
        self.products = 0
        self._kept: dict[int, Pass] = {}
        self._room = 0  # bytes that further passes may keep
        self._made_at: list[int] = []  # versions of the parameters when they were made

    @property
    def device(self) -> torch.device:
        return self.parameters[0].device

    @property
    def dtype(self) -> torch.dtype:
        return self.parameters[0].dtype

    @contextmanager
    def keeping(self, room: int | None = None) -> Iterator[None]:
        """The first backward pass of as many micro-batches as fit is made once for all products of the block.

        The products are the same to the last bit, at 2.1 gradients each instead of 3.2. Where a weight is changed in
        place within the block, the passes are made anew.

        Args:
            room: bytes that the kept passes may take; by default a quarter of the free memory.
        """
        self._room = free_memory(self.device) // 4 if room is None else room
        try:
            yield
        finally:
            self._kept.clear()
            self._room = 0

    def __call__(self, vector: Tensor) -> Tensor:
        """The product of the matrix with ``vector``, (P,) -> (P,).

        Raises:
            FdlabError: a layer without a second derivative, too little memory, or a result that is not finite.
        """
        self.products += 1
        pieces = self._shaped(vector.to(self.device, self.dtype))
        total = torch.zeros(self.size, device=self.device, dtype=self.dtype)
        with exact_kernels(self.device), torch.enable_grad():
            for number, size in enumerate(self.sizes):
                _add(total, self.parameters, _guarded(self._one, number, pieces), size / sum(self.sizes))
        if not torch.isfinite(total).all():
            raise FdlabError(
                "A curvature product is not finite.",
                "The loss or one of its derivatives overflows at these weights.",
                "Check the loss and the weights, or use float64.",
                NOT_UNDERSTOOD,
            )
        return total

    def _one(self, number: int, pieces: Pieces) -> Parts:
        try:
            return self._kept_or_new(number)(pieces, number in self._kept)
        except torch.OutOfMemoryError:
            if not self._kept:
                raise
        self._kept.clear()  # the estimate of their bytes was too low
        self._room = 0
        return self._first(self.batches[number])(pieces, False)

    def _kept_or_new(self, number: int) -> Pass:
        versions = [p._version for p in self.parameters]
        if versions != self._made_at:
            self._kept.clear()
            self._made_at = versions
        if number in self._kept or self._room <= 0:
            return self._kept.get(number) or self._first(self.batches[number])
        held = _Held(self.parameters)
        with held:
            made = self._first(self.batches[number])
        if held.bytes <= self._room:
            self._kept[number] = made
        self._room -= held.bytes  # what did not fit ends the keeping
        return made

    def _first(self, batch: Any) -> Pass:
        """What does not depend on the vector: one micro-batch's first backward pass."""
        raise NotImplementedError

    def _shaped(self, vector: Tensor) -> list[Tensor]:
        return [
            piece.view_as(p)
            for piece, p in zip(vector.split([p.numel() for p in self.parameters]), self.parameters, strict=True)
        ]


class Hessian(Curvature):
    """Products by double backward (Pearlmutter 1994): 3.2 gradients each, 2.1 where the first pass is kept.

    Args:
        loss: batch -> the mean loss over its images.
    """

    def __init__(self, loss: Loss, parameters: Sequence[Tensor], batches: Sequence[Any], sizes: Sequence[int]) -> None:
        super().__init__(parameters, batches, sizes)
        self.loss = loss

    def gradient(self) -> Tensor:
        """(P,): the gradient of the mean loss; at a minimum it is 0."""
        total = torch.zeros(self.size, device=self.device, dtype=self.dtype)
        with exact_kernels(self.device), torch.enable_grad():
            for batch, size in zip(self.batches, self.sizes, strict=True):
                parts = torch.autograd.grad(self.loss(batch), self.parameters, allow_unused=True)
                _add(total, self.parameters, parts, size / sum(self.sizes))
        return total

    def mean_loss(self) -> float:
        """The mean loss over all images, under the same kernels."""
        with exact_kernels(self.device), torch.no_grad():
            parts = [float(self.loss(batch)) * size for batch, size in zip(self.batches, self.sizes, strict=True)]
        return sum(parts) / sum(self.sizes)

    def along(self, vector: Tensor, losses: Loss) -> Tensor:
        """(N,): v' H_i v of every image i, whose mean is v' H v: what each image adds to the curvature along v.

        Args:
            losses: batch -> (n,), one loss an image.
        """
        pieces = self._shaped(vector.to(self.device, self.dtype))
        with exact_kernels(self.device), torch.enable_grad():
            return torch.cat([_second_along(losses(batch), self.parameters, pieces) for batch in self.batches])

    def _first(self, batch: Any) -> Pass:
        # autograd.grad, not .backward(): the latter with create_graph leaves cycles in .grad
        first = torch.autograd.grad(self.loss(batch), self.parameters, create_graph=True, allow_unused=True)
        curved = [g is not None and g.requires_grad for g in first]
        gradients = [g for g, some in zip(first, curved, strict=True) if some]

        def product(pieces: Pieces, again: bool) -> Parts:
            if not gradients:  # a loss that is linear in these parameters
                return [None] * len(pieces)
            vectors = [v for v, some in zip(pieces, curved, strict=True) if some]
            return torch.autograd.grad(gradients, self.parameters, vectors, retain_graph=again, allow_unused=True)

        return product


class GaussNewton(Curvature):
    """Products with J' H_z J / N: the Hessian without the curvature of the network itself (Schraudolph 2002).

    Args:
        output: batch -> z, what the criterion takes.
        criterion: (z, batch) -> the mean loss over the batch's images.
    """

    def __init__(
        self,
        output: Loss,
        criterion: Callable[[Tensor, Any], Tensor],
        parameters: Sequence[Tensor],
        batches: Sequence[Any],
        sizes: Sequence[int],
    ) -> None:
        super().__init__(parameters, batches, sizes)
        self.output, self.criterion = output, criterion

    def _first(self, batch: Any) -> Pass:
        z = self.output(batch)
        if not z.requires_grad:
            raise FdlabError(
                "This objective has no Gauss-Newton form here.",
                "Its output is not separate from its loss.",
                "Use the Hessian, or another objective.",
                FAILED,
            )
        # J v as the derivative of J'u along u: two backward passes, no forward mode needed
        u = torch.zeros_like(z, requires_grad=True)
        pulled = torch.autograd.grad(z, self.parameters, u, create_graph=True, allow_unused=True)
        used = [g is not None for g in pulled]
        gradients = [g for g in pulled if g is not None]
        leaf = z.detach().requires_grad_()
        slope = torch.autograd.grad(self.criterion(leaf, batch), leaf, create_graph=True)[0]

        def product(pieces: Pieces, again: bool) -> Parts:
            vectors = [v for v, some in zip(pieces, used, strict=True) if some]
            pushed = torch.autograd.grad(gradients, u, vectors, retain_graph=True)[0]
            curved = torch.autograd.grad(slope, leaf, pushed, retain_graph=again, materialize_grads=True)[0]
            return torch.autograd.grad(z, self.parameters, curved, retain_graph=again, allow_unused=True)

        return product


class _Held(saved_tensors_hooks):
    """Counts the bytes that the graph made in its block keeps alive, the parameters apart."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.bytes = 0
        self.seen = {p.untyped_storage().data_ptr() for p in parameters}
        super().__init__(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.seen:
            self.seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor.detach()  # the node's own output would be a circle that is never freed


def _second_along(losses: Tensor, parameters: list[Tensor], pieces: list[Tensor]) -> Tensor:
    """(n,): the second derivative of each loss along ``pieces``; sums that are linear in u, read off by d/du."""
    u = torch.ones_like(losses, requires_grad=True)
    total = (losses * u).sum()
    for _ in range(2):
        slopes = torch.autograd.grad(total, parameters, create_graph=True, allow_unused=True)
        kept = [(g * v).sum() for g, v in zip(slopes, pieces, strict=True) if g is not None and g.requires_grad]
        if not kept:
            return torch.zeros_like(losses)
        total = torch.stack(kept).sum()
    second = torch.autograd.grad(total, u, allow_unused=True)[0]
    return torch.zeros_like(losses) if second is None else second.detach()


def check_module(module: nn.Module) -> None:
    """Refuses a module whose loss is no fixed function of its weights and the images.

    Raises:
        FdlabError: weights that are not finite; active dropout, drop path or BatchNorm.
    """
    for name, tensor in module.state_dict(keep_vars=True).items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise FdlabError(
                f"{name} holds values that are not finite.",
                "There is no curvature at such a point.",
                "Use a checkpoint from before the training diverged.",
                NOT_UNDERSTOOD,
            )
    for name, part in module.named_modules():
        random = (isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0) or bool(getattr(part, "drop_prob", 0))
        if part.training and (random or isinstance(part, nn.modules.batchnorm._BatchNorm)):
            raise FdlabError(
                f"{name or 'The module'} ({type(part).__name__}) is in training mode.",
                "Its output changes from call to call or couples the images of a batch: there is no fixed loss.",
                "Call module.eval() first.",
                USAGE,
            )


def _add(total: Tensor, parameters: Sequence[Tensor], parts: Parts, weight: float) -> None:
    """``total += weight * parts``, flattened in place; a part that is absent is zero."""
    start = 0
    for parameter, part in zip(parameters, parts, strict=True):
        if part is not None:
            total[start : start + parameter.numel()].add_(part.detach().reshape(-1), alpha=weight)
        start += parameter.numel()


def _guarded(function: Callable[..., Parts], *arguments: Any) -> Parts:
    try:
        return function(*arguments)
    except torch.OutOfMemoryError as error:
        raise FdlabError(
            "The device has too little memory for one product.",
            str(error).splitlines()[0],
            "Give a smaller --micro-batch.",
            OUT_OF_SPACE,
        ) from None
    except (RuntimeError, NotImplementedError) as error:
        if "not implemented" not in str(error):
            raise
        raise FdlabError(
            "A layer of this model has no second derivative.",
            str(error).splitlines()[0],
            "Replace the custom or fused layer by its plain form.",
            FAILED,
        ) from error
