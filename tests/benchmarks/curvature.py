"""Curvature beside its peers: one table. Not a test; run by hand after ``pip install -e '.[bench]'``:

    python tests/benchmarks/curvature.py [tiny] [noise] [landscape] [vit [images of the run that counts products]]

Everything in one process, timings interleaved. Peers get the attention kernel that they need from this script; on
their own they raise on a stock timm ViT. ``tiny``: 5,018 parameters, errors against the dense float64 Hessian.
``vit``: ViT-Tiny at 64 px, 5.4 M parameters, 128 images (about half an hour on one core); ``landscape``: what moving
the weights costs beside the forward passes; ``noise``: half-width of noise_to_rise. All are trained here, on
scikit-learn's digits.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import wasserstein_distance
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fdlab.measures.directions import filter_direction, moving
from fdlab.measures.lanczos import Ritz, lanczos
from fdlab.measures.products import Hessian, exact_kernels
from fdlab.measures.sharpness import crossing, noise_curve
from fdlab.measures.trace import density
from fdlab.records.intervals import two_level_interval

ROWS: list[tuple[str, str, str, str]] = []
Batch = tuple[Tensor, Tensor]


def say(figure: str, bar: str, ours: str, peers: str = "-") -> None:
    """One row, printed at once: the script takes minutes."""
    ROWS.append((figure, bar, ours, peers))
    print(f"| {figure} | {bar} | {ours} | {peers} |", flush=True)


# --- the two models ----------------------------------------------------------------------------------------------


def digits(size: int, channels: int) -> Batch:
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images / 16.0, dtype=torch.float32)[:, None]
    if size != 8:
        images = F.interpolate(images, size=size, mode="bilinear")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return (images.expand(-1, channels, -1, -1)[order] - 0.5) / 0.25, torch.tensor(data.target)[order]


def trained(model: nn.Module, data: Batch, steps: int, batch: int, rate: float) -> nn.Module:
    torch.manual_seed(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    images, labels = data
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate * (1 - step / steps)
        chosen = torch.randint(0, 1500, (batch,), generator=torch.Generator().manual_seed(step))
        loss = F.cross_entropy(model(images[chosen]), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"trained {steps} steps, last batch's loss {float(loss):.3f}", flush=True)
    return model.eval()


def tiny() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=8, patch_size=2, in_chans=1, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2, num_classes=10
    )


def vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(img_size=64, patch_size=8, embed_dim=192, depth=12, num_heads=3, num_classes=10)


def hessian_of(model: nn.Module, data: Batch, micro: int) -> Hessian:
    batches = list(zip(data[0].split(micro), data[1].split(micro), strict=True))
    return Hessian(
        lambda b: F.cross_entropy(model(b[0]), b[1]), list(model.parameters()), batches, [len(b[0]) for b in batches]
    )


def dense(model: nn.Module, data: Batch, chunk: int = 64) -> np.ndarray:
    """All eigenvalues in float64, ascending."""
    double = tiny().double()
    double.load_state_dict(model.state_dict())
    parameters = list(double.eval().parameters())
    with exact_kernels():
        loss = F.cross_entropy(double(data[0].double()), data[1])
        first = torch.autograd.grad(loss, parameters, create_graph=True)
        flat = torch.cat([g.reshape(-1) for g in first])
        rows = []
        for part in torch.eye(len(flat), dtype=torch.float64).split(chunk):
            found = torch.autograd.grad(flat, parameters, part, is_grads_batched=True, retain_graph=True)
            rows.append(torch.cat([g.reshape(len(part), -1) for g in found], 1))
    matrix = torch.cat(rows)
    return torch.linalg.eigvalsh((matrix + matrix.T) / 2).numpy()


def worst(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(np.asarray(found) / exact - 1).max())


# --- peers ------------------------------------------------------------------------------------------------------------


class PyHessian:
    """PyHessian 0.1 on one batch, its products counted; ``torch.eig``, gone from torch, put back for ``density``."""

    def __init__(self, model: nn.Module, data: Batch, criterion: Callable[..., Tensor] = F.cross_entropy) -> None:
        package: ModuleType = importlib.import_module("pyhessian.hessian")
        self.package, self.count = package, 0
        self.plain = package.hessian_vector_product

        def counted(*arguments: Any) -> Any:
            self.count += 1
            return self.plain(*arguments)

        package.hessian_vector_product = counted
        torch.eig = lambda matrix, eigenvectors: (  # type: ignore[attr-defined]
            torch.linalg.eigh(matrix)[0][:, None],
            torch.linalg.eigh(matrix)[1],
        )
        self.hessian = package.hessian(model, criterion, data=data, cuda=False)

    def product(self, vector: Tensor) -> Callable[[], Any]:
        """One of its products, ready to be timed."""
        parameters = self.hessian.params
        pieces = vector.split([p.numel() for p in parameters])
        shaped = [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]
        return lambda: self.plain(self.hessian.gradsH, parameters, shaped)

    def close(self) -> None:
        self.package.hessian_vector_product = self.plain
        for parameter in self.hessian.params:
            parameter.grad = None


class Quadratic(nn.Module):
    """``sum l_i w_i^2 / 2``: power iteration depends on the eigenvalues alone, so products can be counted here."""

    def __init__(self, values: np.ndarray, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        spectrum = torch.zeros(size)
        spectrum[: len(values)] = torch.as_tensor(values, dtype=torch.float32)
        self.register_buffer("spectrum", spectrum)

    def forward(self, _inputs: Tensor) -> Tensor:
        return 0.5 * (self.spectrum * self.weight**2).sum()


def power_products(values: np.ndarray, size: int, exact: np.ndarray, accuracy: float, limit: int) -> tuple[int, float]:
    """Products of PyHessian's own ``eigenvalues(top_n=5)`` until the worst of the five is right to ``accuracy``.

    The loosest of its tolerances that does it; the last count and error where none does.
    """
    count, error = 0, np.inf
    for tolerance in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 0.0):
        torch.manual_seed(0)
        peer = PyHessian(Quadratic(values, size), (torch.zeros(1), torch.zeros(1)), lambda out, _target: out)
        found, _ = peer.hessian.eigenvalues(maxIter=limit, tol=tolerance, top_n=5)
        peer.close()
        count, error = peer.count, worst(np.asarray(found), exact)
        if error <= accuracy:
            break
    return count, error


# --- the small model, against the truth --------


def small() -> None:
    data = digits(8, 1)
    model = trained(tiny(), data, 1500, 64, 3e-3)
    data = data[0][:64], data[1][:64]
    exact = dense(model, data)
    size, scale = len(exact), float(np.abs(exact).mean())
    top, matrix = exact[::-1][:5], hessian_of(model, data, 16)
    print(
        f"tiny: {size} parameters, top {np.round(top, 2)}, lowest {exact[0]:.3f}, trace {exact.sum():.1f}", flush=True
    )

    ritz = lanczos(matrix, size, 5, start=40, cap=40)
    grown = lanczos(matrix, size, 5)
    with exact_kernels():
        defaults, rates = _peer_eigenvalues(model, data, top)
        scipy_error = _curvlinops(model, data, top, float(exact[0]))
    ours = f"{worst(ritz.top(5)[0], top):.0e} ({ritz.steps})"
    ours += f"; default rule {worst(grown.top(5)[0], top):.0e} ({grown.steps})"
    say("top-5, worst relative error (products)", "1e-4 with 40", ours, f"PyHessian {defaults}, {rates}; {scipy_error}")
    say("lowest, same run", "1e-3", f"{abs(ritz.lowest[0] / exact[0] - 1):.0e}", "PyHessian none")
    _bounds(matrix, exact)
    _trace(matrix, exact, model, data)
    _density(matrix, ritz, exact, scale, model, data)


def _peer_eigenvalues(model: nn.Module, data: Batch, top: np.ndarray) -> tuple[str, str]:
    said = []
    for tolerance in (1e-3, 1e-6):
        torch.manual_seed(0)
        peer = PyHessian(model, data)
        found, _ = peer.hessian.eigenvalues(tol=tolerance, top_n=5)
        said.append(f"{worst(np.asarray(found), top):.0e} ({peer.count}) at tol {tolerance:g}")
        peer.close()
    return said[0], said[1]


def _curvlinops(model: nn.Module, data: Batch, top: np.ndarray, lowest: float) -> str:
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import eigsh

    operator = HessianLinearOperator(
        model, nn.CrossEntropyLoss(), list(model.parameters()), [data], check_deterministic=False
    )
    inner, counts = operator.to_scipy(), []
    for which, k in (("LA", 5), ("SA", 1)):
        calls = [0]

        def product(v: np.ndarray, calls: list[int] = calls) -> np.ndarray:
            calls[0] += 1
            return inner @ v

        from scipy.sparse.linalg import LinearOperator

        wrapped = LinearOperator(inner.shape, matvec=product, dtype=np.float32)
        found = np.sort(eigsh(wrapped, k=k, which=which, return_eigenvectors=False, tol=1e-4))[::-1]
        error = worst(found, top) if which == "LA" else abs(found[0] / lowest - 1)
        counts.append(f"{which} {error:.0e} ({calls[0]})")
    return "curvlinops + eigsh " + ", ".join(counts)


def _bounds(matrix: Hessian, exact: np.ndarray) -> None:
    broken = total = 0
    for seed, steps in ((0, 20), (1, 30), (2, 40), (3, 40)):
        ritz = lanczos(matrix, matrix.size, 5, seed=seed, start=steps, cap=steps)
        error = np.abs(exact[:, None] - ritz.values[None]).min(0)
        broken += int((error > ritz.bounds + 1e-5 * abs(exact).max()).sum())
        total += len(error)
    say("true error above its residual bound", "never", f"{broken} of {total}", "none prints one")


def _trace(matrix: Hessian, exact: np.ndarray, model: nn.Module, data: Batch) -> None:
    true, errors, scaled = exact.sum(), [], []
    for seed in range(8):
        ritz = lanczos(matrix, matrix.size, 5, seed=seed, start=40, cap=40)
        found = density(matrix, ritz, probes=0, trace_probes=60, seed=seed)
        errors.append(found.trace / true - 1)
        scaled.append((found.trace - true) / found.trace_error)
    peer_errors = []
    with exact_kernels():
        for seed in range(8):
            torch.manual_seed(seed)
            peer = PyHessian(model, data)
            peer_errors.append((np.mean(peer.hessian.trace()) / true - 1, peer.count))
            peer.close()
    rms, peer_rms = (float(np.sqrt(np.mean(np.square(e)))) for e in (errors, [e for e, _ in peer_errors]))
    counts = f"{min(c for _, c in peer_errors)} to {max(c for _, c in peer_errors)}"
    ours = f"rms {rms:.2%}; deviation / standard error rms {np.sqrt(np.mean(np.square(scaled))):.2f}"
    say("trace, 100 products, 8 seeds", "rms 1 %", ours, f"PyHessian default rms {peer_rms:.1%} ({counts} products)")


def _density(matrix: Hessian, ritz: Ritz, exact: np.ndarray, scale: float, model: nn.Module, data: Batch) -> None:
    ours, peers = [], []
    for seed in range(3):
        ritz = lanczos(matrix, matrix.size, 5, seed=seed, start=40, cap=40)
        found = density(matrix, ritz, probes=4, steps=30, seed=seed)
        ours.append(wasserstein_distance(found.nodes, exact, found.weights) / scale)
        with exact_kernels():
            torch.manual_seed(seed)
            peer = PyHessian(model, data)
            nodes, weights = (np.concatenate(part) for part in peer.hessian.density(iter=40, n_v=4))
            peer.close()
        peers.append(wasserstein_distance(nodes, exact, weights) / scale)
    raised = f"PyHessian 0.1 raises (torch.eig); mended here {np.mean(peers):.3f}"
    say(
        "density, 160 products, W1 / mean |eigenvalue|, 3 seeds", "0.15, half of PyHessian's",
        f"{np.mean(ours):.3f} ({min(ours):.3f} to {max(ours):.3f}), ratio {np.mean(ours) / np.mean(peers):.2f}", raised,
    )  # fmt: skip


# --- the larger model: cost and memory ------


def large(steps: int = 250, spectrum_images: int = 128) -> None:
    """``spectrum_images``: of the run that counts products; times and memory are always those of 128 images."""
    data = digits(64, 3)
    model = trained(vit(), data, steps, 32, 5e-4)
    few = data[0][:spectrum_images].contiguous(), data[1][:spectrum_images]
    data = data[0][:128].contiguous(), data[1][:128]
    matrix = hessian_of(model, few, 16)
    began = time.process_time()
    tight = lanczos(matrix, matrix.size, 5, tolerance=1e-5, start=20, cap=60)
    print(f"reference: {tight.steps} products, bounds {tight.top(5)[1] / tight.top(5)[0]}", flush=True)
    print(f"values {tight.top(10)[0].round(3)}, lowest {tight.lowest}, {time.process_time() - began:.0f} s", flush=True)
    exact = tight.top(5)[0]
    needed = next(m for m in range(5, 61) if worst(_truncated(tight, m), exact) <= 1e-4)
    power, error = power_products(tight.values[np.argsort(-np.abs(tight.values))], matrix.size, exact, 1e-4, 1000)
    matrix = hessian_of(model, data, 16)
    ours, theirs, gradient = _interleaved(model, matrix, data)
    reached = f"{power} products" if error <= 1e-4 else f"never reaches 1e-4: {error:.0e} after {power}"
    asked = rule_steps(tight)
    cost, peer_cost = asked * ours, power * theirs[0] + theirs[1]
    mine = f"{cost / peer_cost:.2f}: {asked} x {ours:.1f} s (1e-4 after {needed})"
    say(
        "ViT-Tiny top-5 to 1e-4: cost over PyHessian's",
        "1/3",
        mine,
        f"{reached}, {theirs[0]:.1f} s + {theirs[1]:.1f} s",
    )
    say(
        "one product in gradients",
        "4.5",
        f"{ours / gradient:.2f}",
        f"PyHessian {theirs[0] / gradient:.2f} (graph kept)",
    )
    vector = torch.randn(matrix.size, generator=torch.Generator().manual_seed(1))
    parts, odd = matrix(vector), hessian_of(model, data, 36)(vector)
    say("micro-batches 16 against 36, 36, 36, 20", "1e-5", f"{float((parts - odd).norm() / odd.norm()):.0e}")
    memory()


def rule_steps(ritz: Ritz) -> int:
    """Products that the default rule takes: 30, and more until all bounds are within 1 %."""
    projected = ritz.vectors @ np.diag(ritz.values) @ ritz.vectors.T
    for steps in range(30, len(projected)):
        values, vectors = np.linalg.eigh(projected[:steps, :steps])
        bounds = abs(projected[steps, steps - 1]) * np.abs(vectors[-1])
        wanted = [0, *range(steps - 5, steps)]
        if (bounds[wanted] <= 0.01 * np.maximum(np.abs(values[wanted]), 1e-3 * np.abs(values).max())).all():
            return steps
    return ritz.steps


def _truncated(ritz: Ritz, steps: int) -> np.ndarray:
    """The top five that the same run had after fewer steps."""
    projected = ritz.vectors @ np.diag(ritz.values) @ ritz.vectors.T
    values = np.linalg.eigvalsh(projected[:steps, :steps])[::-1][:5]
    return np.pad(values, (0, 5 - len(values)), constant_values=np.nan)


def _interleaved(model: nn.Module, matrix: Hessian, data: Batch) -> tuple[float, tuple[float, float], float]:
    """Processor seconds of our product, PyHessian's (each, once) and a gradient; the medians of three rounds."""
    vector = torch.randn(matrix.size, generator=torch.Generator().manual_seed(0))
    times: dict[str, list[float]] = {"ours": [], "theirs": [], "once": [], "gradient": []}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = call()
        times[name].append(time.process_time() - began)
        return result

    for _ in range(3):
        timed("gradient", matrix.gradient)
        timed("ours", lambda: matrix(vector))
        with exact_kernels():
            peer = timed("once", lambda: PyHessian(model, data))
            timed("theirs", peer.product(vector))
            peer.close()
    middle = {name: float(np.median(values)) for name, values in times.items()}
    return middle["ours"], (middle["theirs"], middle["once"]), middle["gradient"]


# --- landscapes and noise ------


def landscape(points: int = 12) -> None:
    """Points of a plane on 128 images against as many bare forward passes, interleaved; peers' restore beside."""
    data = digits(64, 3)
    model = vit().eval()
    batches = list(zip(data[0][:128].split(32), data[1][:128].split(32), strict=True))
    weights = {name: p for name, p in model.named_parameters() if not name.startswith("head")}
    before = {name: p.detach().clone() for name, p in weights.items()}
    directions = [filter_direction(weights, 0, number) for number in (0, 1)]
    times: dict[str, list[float]] = {"plane": [], "forward": []}

    def forward() -> float:
        with torch.no_grad():
            return float(torch.cat([F.cross_entropy(model(x), y, reduction="none") for x, y in batches]).mean())

    forward()
    with moving(weights) as place:
        for point in range(points):
            for name in ("plane", "forward"):
                began = time.process_time()
                if name == "plane":
                    place.go((0.01 * (point + 1), directions[0]), (0.02 * (point + 1), directions[1]))
                forward()
                times[name].append(time.process_time() - began)
    ratio = float(np.median(np.array(times["plane"]) / np.array(times["forward"])))
    same = all(torch.equal(before[name], p) for name, p in weights.items())
    say("plane: cost over points x images x forward, ViT-Tiny/64, 128 images", "1.05", f"{ratio:.3f}; restored: {same}")
    began = time.process_time()
    filter_direction(weights, 0, 2)
    say(
        "filter-normalised direction, ViT-Tiny",
        "0.05 s (normalising alone)",
        f"{time.process_time() - began:.2f} s, drawing included",
    )


def noise(images: int = 128, directions: int = 20) -> None:
    """The 95 % half-width of noise_to_rise over directions and images, on the small trained model."""
    data = digits(8, 1)
    model = trained(tiny(), data, 800, 64, 3e-3)
    weights = dict(model.named_parameters())
    inputs, labels = data[0][:images], data[1][:images]

    def losses() -> Tensor:
        return F.cross_entropy(model(inputs), labels, reduction="none")

    with moving(weights) as place, torch.no_grad():
        curve = noise_curve(place, losses, partial(filter_direction, place.start, 0), directions)
    found = two_level_interval(curve.rise(), partial(crossing, curve.amounts), 0)
    half = (found.high - found.low) / 2 / found.value
    say("noise_to_rise: 95 % half-width, 20 directions, 128 images", "20 %", f"{half:.0%} of {found.value:.3f}")


def memory() -> None:
    """Peak memory above the loaded model, in a fresh process each."""
    found = {}
    for kind in ("ours", "pyhessian"):
        shown = subprocess.run([sys.executable, __file__, "peak", kind], capture_output=True, text=True, check=True)
        found[kind] = float(shown.stdout.split()[-1])
    say(
        "ViT-Tiny, 128 images: peak MiB above the model, basis left out",
        "900",
        f"{found['ours']:.0f} (micro-batch 16)",
        f"PyHessian {found['pyhessian']:.0f}",
    )


def high_water() -> int:
    """KiB, of this program alone: what getrusage gives is inherited from the parent process."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def peak(kind: str) -> None:
    """Prints the peak of one product above the loaded model."""
    model, data = vit().eval(), digits(64, 3)
    data = data[0][:128].contiguous(), data[1][:128]
    with torch.no_grad():
        model(data[0][:2])
    before = high_water()
    basis = 0
    if kind == "ours":
        matrix = hessian_of(model, data, 16)
        lanczos(matrix, matrix.size, 1, start=2, cap=2)
        basis = 2 * matrix.size * 4  # the rows that were written to
    else:
        with exact_kernels():
            peer = PyHessian(model, data)
            peer.product(torch.ones(sum(p.numel() for p in model.parameters())))()
    print((high_water() - before) / 1024 - basis / 2**20)


if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        peak(sys.argv[2])
    else:
        torch.set_num_threads(1)
        parts = sys.argv[1:] or ["tiny", "noise", "landscape", "vit"]
        print("| figure | bar | here | peers |\n|---|---|---|---|", flush=True)
        if "tiny" in parts:
            small()
        if "noise" in parts:
            noise()
        if "landscape" in parts:
            landscape()
        if "vit" in parts:
            large(spectrum_images=int(parts[-1]) if parts[-1].isdigit() else 128)
