"""Lanczos, trace, density and exact products against matrices and layers whose answers are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import wasserstein_distance
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import fdlab
from fdlab.errors import FdlabError
from fdlab.known_answers.curvature import CASES, given_spectrum, mirrored, run_case, truth
from fdlab.measures.basis import Basis, plan_rows
from fdlab.measures.lanczos import lanczos
from fdlab.measures.products import GaussNewton, Hessian
from fdlab.measures.trace import density

DOUBLE = torch.float64


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
@pytest.mark.parametrize("name", CASES)
def test_known_answers(name: str, dtype: torch.dtype) -> None:
    checks = run_case(name, dtype)
    assert checks
    assert not [check for check in checks if not check.right]


def test_every_curvature_case_of_the_truth_file_is_run() -> None:
    assert set(truth()) - {"_meta"} == set(CASES)


# --- Lanczos -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("steps", [10, 20, 40])
def test_true_errors_stay_below_the_residual_bounds(seed: int, steps: int) -> None:
    values = given_spectrum("quadratic_outliers")
    matrix = mirrored(values)
    ritz = lanczos(lambda v: matrix @ v, 600, seed=seed, start=steps, cap=steps, dtype=DOUBLE)
    distance = np.abs(values.numpy()[:, None] - ritz.values[None]).min(0)
    assert (distance <= ritz.bounds + 1e-12 * 100).all()
    assert ritz.bounds.max() > 1e-6  # the bounds are not idle


def test_steps_grow_until_the_bound_asked_for_is_met_or_the_cap() -> None:
    values = given_spectrum("negative_dominates")
    matrix = mirrored(values)
    loose, tight = (
        lanczos(lambda v: matrix @ v, 200, tolerance=tolerance, cap=150, dtype=DOUBLE) for tolerance in (0.05, 1e-6)
    )
    assert 30 <= loose.steps < tight.steps
    assert loose.converged and tight.converged
    capped = lanczos(lambda v: matrix @ v, 200, tolerance=1e-6, cap=40, dtype=DOUBLE)
    assert capped.steps == 40
    assert not capped.converged


def test_a_restarted_run_finds_the_same_values_in_little_memory() -> None:
    matrix = mirrored(given_spectrum("quadratic_outliers"))
    whole = lanczos(lambda v: matrix @ v, 600, tolerance=1e-6, cap=200, dtype=DOUBLE)
    small = lanczos(lambda v: matrix @ v, 600, tolerance=1e-6, cap=200, dtype=DOUBLE, budget=20 * 600 * 8)
    assert "Restarted" in small.note
    assert small.basis.rows <= 20
    np.testing.assert_allclose(small.top(5)[0], whole.top(5)[0], rtol=1e-9)
    assert small.lowest[0] == pytest.approx(whole.lowest[0], rel=1e-6)
    rest = density(lambda v: matrix @ v, small, probes=4)
    assert small.basis.rows <= 20
    assert abs(rest.trace - truth()["quadratic_outliers"]["trace"]) < 5 * rest.trace_error


def test_memory_that_does_not_fit_is_refused_with_its_number() -> None:
    with pytest.raises(FdlabError, match=r"130 vectors of 86,600,000 numbers take 45\.03 GB") as error:
        plan_rows(86_600_000, 130, 18, device=torch.device("cpu"), dtype=torch.float32, budget=10**9)
    assert error.value.code == 4


def test_eigenvectors_belong_to_their_values() -> None:
    matrix = mirrored(given_spectrum("quadratic_outliers"))
    ritz = lanczos(lambda v: matrix @ v, 600, tolerance=1e-7, cap=200, dtype=DOUBLE)
    for rank, value in ((0, 100.0), (1, 100 / 2**1.5), (-1, -2.0)):
        vector = ritz.eigenvector(rank)
        assert float(vector.norm()) == pytest.approx(1)
        torch.testing.assert_close(matrix @ vector, value * vector, atol=1e-4, rtol=0)


def test_a_repeated_outlier_above_a_bulk_is_found_by_the_probes() -> None:
    """No breakdown, no rounding copies: one Krylov space shows 50 once, the probes on its complement again."""
    values = torch.cat([torch.tensor([50.0] * 3 + [20.0], dtype=DOUBLE), torch.linspace(0, 1, 900, dtype=DOUBLE)])
    matrix = nn.Parameter(torch.zeros(904, dtype=DOUBLE))
    full = mirrored(values)

    def loss(_module: nn.Module, _batch: Any) -> Tensor:
        return 0.5 * matrix @ full @ matrix

    owner = nn.Module()
    owner.matrix = matrix
    found = fdlab.hessian_spectrum(owner, loss, [(torch.ones(1),)], k=4)
    np.testing.assert_allclose(found.eigenvalues, [50, 50, 50, 20], rtol=1e-6)


def test_fewer_parameters_than_eigenvalues_and_the_zero_matrix() -> None:
    small = lanczos(lambda v: 3 * v, 2, k=5, dtype=DOUBLE)
    np.testing.assert_allclose(small.top(5)[0], [3, 3, np.nan, np.nan, np.nan])
    zero = lanczos(lambda v: 0 * v, 50, k=3, dtype=torch.float32)
    np.testing.assert_allclose(zero.top(3)[0], 0, atol=1e-12)
    assert zero.steps < 10


def test_basis_stays_orthogonal_in_single_precision() -> None:
    matrix = mirrored(given_spectrum("quadratic_outliers")).float()
    ritz = lanczos(lambda v: matrix @ v, 600, start=80, cap=80, dtype=torch.float32)
    rows = torch.stack([ritz.basis.row(i) for i in range(80)])
    assert float((rows @ rows.T - torch.eye(80)).abs().max()) < 1e-5
    assert (np.diff(np.sort(ritz.values)[-5:]) > 1).all()  # no ghost copies of the outliers


def test_rotating_a_basis_by_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdlab.measures.basis._COLUMNS", 7)
    basis = Basis(30, device=torch.device("cpu"), dtype=DOUBLE)
    rows = torch.linalg.qr(torch.randn(30, 10, dtype=DOUBLE))[0].T
    for row in rows:
        basis.append(row)
    turn = torch.linalg.qr(torch.randn(10, 10, dtype=DOUBLE))[0][:, :4]
    basis.rotate(turn)
    torch.testing.assert_close(torch.stack([basis.row(i) for i in range(4)]), turn.T @ rows)
    assert basis.rows == 4 and len(basis.chunks) == 1


# --- trace and density ---------------------------------------------------------------------------------------------


def test_trace_is_within_its_error_and_better_than_plain_probes() -> None:
    known = truth()["quadratic_outliers"]
    matrix = mirrored(given_spectrum("quadratic_outliers"))
    errors, scaled = [], []
    for seed in range(12):
        ritz = lanczos(lambda v: matrix @ v, 600, seed=seed, start=40, cap=40, dtype=DOUBLE)
        found = density(lambda v: matrix @ v, ritz, probes=0, trace_probes=60, seed=seed)
        assert found.products == 60
        errors.append(found.trace / known["trace"] - 1)
        scaled.append((found.trace - known["trace"]) / found.trace_error)
    rms = float(np.sqrt(np.mean(np.square(errors))))
    assert rms < 0.01  # 100 products; one Rademacher probe alone has 7 %, a hundred 0.7 %
    assert 0.4 < np.sqrt(np.mean(np.square(scaled))) < 1.8  # the standard error is neither idle nor too small


def test_density_has_unit_mass_and_the_right_distance() -> None:
    values = given_spectrum("quadratic_outliers").numpy()
    matrix = mirrored(torch.from_numpy(values))
    ritz = lanczos(lambda v: matrix @ v, 600, start=40, cap=40, dtype=DOUBLE)
    found = density(lambda v: matrix @ v, ritz, probes=4, steps=30)
    assert found.products == 120
    assert found.weights.sum() == pytest.approx(1)
    assert wasserstein_distance(found.nodes, values, found.weights) / np.abs(values).mean() < 0.05
    assert (found.nodes * found.weights).sum() * 600 == pytest.approx(found.trace)
    true_mass = np.abs(values[values < 0]).sum() / np.abs(values).sum()
    assert found.negative_mass == pytest.approx(true_mass, rel=0.1)


# --- products ---------------------------------------------------------------------------------------------------------


class Parts:
    """A stock timm model, whose attention has no second derivative under its own kernel."""

    def __init__(self, dtype: torch.dtype = DOUBLE) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.module = VisionTransformer(
                img_size=8, patch_size=4, in_chans=1, embed_dim=8, depth=1, num_heads=2, mlp_ratio=1, num_classes=3
            )
            self.images = torch.randn(11, 1, 8, 8, dtype=dtype)
        self.module = self.module.to(dtype).eval()
        self.labels = torch.arange(11) % 3
        self.parameters = list(self.module.parameters())
        self.batches = list(zip(self.images.split(4), self.labels.split(4), strict=True))

    def losses(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(self.module(batch[0]), batch[1], reduction="none")

    def hessian(self, batches: list[Any]) -> Hessian:
        return Hessian(lambda b: self.losses(b).mean(), self.parameters, batches, [len(b[0]) for b in batches])


def dense(matrix: Any) -> Tensor:
    eye = torch.eye(matrix.size, dtype=matrix.dtype)
    return torch.stack([matrix(row) for row in eye])


@pytest.fixture(scope="module")
def whole() -> tuple[Parts, Tensor]:
    parts = Parts()
    return parts, dense(parts.hessian([(parts.images, parts.labels)]))


def test_products_are_symmetric_and_those_of_torchs_own_hessian(whole: tuple[Parts, Tensor]) -> None:
    parts, found = whole
    torch.testing.assert_close(found, found.T, rtol=1e-9, atol=1e-12)
    names = [name for name, _ in parts.module.named_parameters()]
    place = sum(p.numel() for p in parts.parameters[: names.index("head.weight")])

    def loss(weight: Tensor) -> Tensor:
        state = dict(parts.module.named_parameters()) | {"head.weight": weight}
        return F.cross_entropy(torch.func.functional_call(parts.module, state, (parts.images,)), parts.labels)

    head = parts.module.head.weight
    block = torch.func.hessian(loss)(head.detach()).reshape(head.numel(), head.numel())
    torch.testing.assert_close(found[place : place + len(block), place : place + len(block)], block)


def test_micro_batches_with_a_short_last_one_are_the_whole(whole: tuple[Parts, Tensor]) -> None:
    parts, found = whole
    vector = torch.linspace(-1, 1, len(found), dtype=DOUBLE)
    torch.testing.assert_close(parts.hessian(parts.batches)(vector), found @ vector, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("room", [None, 1, 30_000], ids=["all kept", "none", "some"])
@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
def test_kept_passes_give_the_same_bits_at_every_product(kind: str, room: int | None) -> None:
    parts = Parts(torch.float32)
    made = []

    def output(batch: Any) -> Tensor:
        made.append(1)
        return parts.module(batch[0])

    def loss(batch: Any) -> Tensor:
        return F.cross_entropy(output(batch), batch[1])

    sizes = [len(images) for images, _ in parts.batches]
    if kind == "hessian":
        matrix: Any = Hessian(loss, parts.parameters, parts.batches, sizes)
    else:
        matrix = GaussNewton(
            output, lambda z, batch: F.cross_entropy(z, batch[1]), parts.parameters, parts.batches, sizes
        )
    vectors = torch.randn(3, matrix.size, generator=torch.Generator().manual_seed(1))
    plain = [matrix(vector) for vector in vectors]
    made.clear()
    with matrix.keeping(room):
        for vector, product in zip(vectors, plain, strict=True):
            assert torch.equal(matrix(vector), product)
    kept = 3 - (len(made) - 3) // 2  # of three batches, each made once or at each of three products
    assert kept == {None: 3, 1: 0}.get(room, kept)
    assert room is None or kept < 2
    assert torch.equal(matrix(vectors[0]), plain[0])
    made.clear()
    matrix(vectors[0])
    assert len(made) == 3  # nothing is kept after the block


def test_bytes_that_passes_keep_are_counted_and_end_the_keeping() -> None:
    parts = Parts(torch.float32)
    matrix = parts.hessian(parts.batches)
    vector = torch.ones(matrix.size)
    with matrix.keeping(10**9):
        matrix(vector)
        held = 10**9 - matrix._room
    activations = 5 * 8 * 4 * len(parts.images)  # tokens x width x bytes of one map of activations
    assert 20 * activations < held < 400 * activations
    with matrix.keeping(held // 2):
        matrix(vector)
        assert 0 < len(matrix._kept) < len(parts.batches)


def test_changed_weights_are_not_answered_from_a_kept_pass() -> None:
    parts = Parts(torch.float32)
    matrix = parts.hessian(parts.batches)
    vector = torch.ones(matrix.size)
    with matrix.keeping():
        matrix(vector)
        with torch.no_grad():
            parts.module.blocks[0].mlp.fc1.weight.mul_(2.0)
        changed = matrix(vector)
    assert torch.equal(changed, matrix(vector))


def test_the_callers_attention_kernels_are_back_afterwards() -> None:
    parts = Parts(torch.float32)
    before = (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled())
    with pytest.raises(RuntimeError, match="not implemented"):  # what a peer meets on a stock model
        first = torch.autograd.grad(parts.losses(parts.batches[0]).mean(), parts.parameters, create_graph=True)
        torch.autograd.grad(sum(g.sum() for g in first), parts.parameters)  # type: ignore[arg-type]
    parts.hessian(parts.batches)(torch.ones(sum(p.numel() for p in parts.parameters)))
    assert (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()) == before
    assert all(p.grad is None for p in parts.parameters)


def test_curvature_of_each_image_along_a_vector(whole: tuple[Parts, Tensor]) -> None:
    parts, found = whole
    vector = torch.linspace(-1, 1, len(found), dtype=DOUBLE)
    each = parts.hessian(parts.batches).along(vector, parts.losses)
    assert each.shape == (11,)
    assert float(each.mean()) == pytest.approx(float(vector @ found @ vector))
    third = parts.hessian([(parts.images[2:3], parts.labels[2:3])])
    assert float(each[2]) == pytest.approx(float(vector @ third(vector)))


def test_gauss_newton_is_the_hessian_of_the_linearised_model(whole: tuple[Parts, Tensor]) -> None:
    parts, found = whole
    matrix = GaussNewton(
        lambda b: parts.module(b[0]),
        lambda z, b: F.cross_entropy(z, b[1]),
        parts.parameters,
        [(parts.images, parts.labels)],
        [11],
    )
    gauss = dense(matrix)
    values = torch.linalg.eigvalsh(gauss)
    assert float(values[0]) > -1e-10  # the Hessian of a softmax is positive, so is its Gauss-Newton part
    assert float(torch.linalg.eigvalsh(found)[0]) < -1e-4
    assert int((values > 1e-9 * values[-1]).sum()) <= 11 * 2  # rank at most images x (classes - 1)


def test_frozen_unused_and_linear_parameters_count_as_zero() -> None:
    used, unused = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.ones(2))
    both = Hessian(lambda b: (b * used**2).mean(), [used, unused], [torch.ones(3)], [3])
    assert both(torch.ones(3)).tolist() == [2, 0, 0]
    linear = Hessian(lambda b: (b * used).mean(), [used], [torch.ones(3)], [3])
    assert linear(torch.ones(1)).tolist() == [0]


def test_hessian_spectrum_of_any_module() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
        data = (torch.randn(10, 3, dtype=DOUBLE), torch.randn(10, 2, dtype=DOUBLE))
    batches = list(zip(data[0].split(4), data[1].split(4), strict=True))

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.mse_loss(model(batch[0]), batch[1])

    found = fdlab.hessian_spectrum(module, loss, batches, k=3)
    exact = torch.linalg.eigvalsh(dense(Hessian(lambda b: loss(module, b), list(module.parameters()), [data], [10])))
    np.testing.assert_allclose(found.eigenvalues, exact.flip(0)[:3].numpy(), rtol=1e-6)
    assert found.lowest == pytest.approx(float(exact[0]), abs=1e-6)
    assert found.trace == pytest.approx(float(exact.sum()), rel=1e-6)
    assert found.gradient_norm > 0
    assert found.parameters == 32


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), "training mode"),
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "training mode"),
        (nn.Sequential(nn.Linear(2, 2)).requires_grad_(False), "no parameters"),
        (nn.Linear(2, 2).apply(lambda m: nn.init.constant_(m.weight, float("inf"))), "not finite"),
    ],
)
def test_bad_modules_are_refused(module: nn.Module, message: str) -> None:
    batch = (torch.ones(4, 2), torch.zeros(4, 2))
    with pytest.raises(FdlabError, match=message):
        fdlab.hessian_spectrum(module, lambda m, b: F.mse_loss(m(b[0]), b[1]), [batch])


def test_a_loss_that_changes_between_calls_is_refused() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(FdlabError, match="changes from call to call"):
        fdlab.hessian_spectrum(layer, lambda m, b: m(b[0]).square().mean() * torch.rand(()), [(torch.ones(4, 2),)])
