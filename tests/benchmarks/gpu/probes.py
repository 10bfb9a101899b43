"""Reading attention, curvature, features and landscapes beside the bare passes that they are made of."""

from __future__ import annotations

from unittest import mock

import timm
import torch

from fdlab.encoders.encoder import Encoder
from fdlab.measures.products import Hessian
from fdlab.probes import attention as reading
from fdlab.probes.attention import measure_attention
from fdlab.probes.features import measure_features
from tests.benchmarks.attention import FEW
from tests.benchmarks.engine import MODELS
from tests.benchmarks.gpu.rows import Row, tell
from tests.benchmarks.gpu.sizes import Sizes, peak_gb, seconds


def vit(sizes: Sizes, side: int, depth: int | None = None) -> Encoder:
    """A ViT of the sitting's model size with random weights."""
    _, patch, width, blocks, heads = MODELS[sizes.model]
    torch.manual_seed(0)
    module = timm.models.vision_transformer.VisionTransformer(
        img_size=side, patch_size=patch, embed_dim=width, depth=depth or sizes.depth or blocks, num_heads=heads,
        num_classes=0,
    )  # fmt: skip
    return Encoder.wrap(module.eval().to(sizes.device))


def attention(sizes: Sizes) -> None:
    """Four and all metrics beside the bare pass, float32 and bfloat16, with two sizes of slices."""
    for side, count, batch in sizes.pixels:
        for kind in (torch.float32, torch.bfloat16) if sizes.cuda else (torch.float32,):
            encoder = vit(sizes, side)
            encoder.module.to(kind)
            images = torch.rand(count, 3, side, side, device=sizes.device)
            name = f"{side} px, {str(kind).removeprefix('torch.')}"

            def bare(encoder: Encoder = encoder, images: torch.Tensor = images, batch: int = batch) -> None:
                kind = next(encoder.module.parameters()).dtype
                with torch.no_grad():
                    for part in images.split(batch):
                        encoder.tokens(encoder.normalise(part).to(kind))

            floor = seconds(sizes, bare, max(sizes.repeats // 3, 1), warm=1)
            tell(Row("attention", f"bare pass, {name}", count / floor, "images/s"))
            for entries in (8_000_000, 64_000_000) if sizes.cuda else (500_000,):
                with mock.patch.dict(reading._SLICE, {"cuda": entries, "cpu": entries}):
                    for title, metrics in (("four metrics", FEW), ("all metrics", None)):

                        def read(encoder=encoder, images=images, batch=batch, metrics=metrics) -> None:
                            more = {} if metrics is None else {"metrics": metrics}
                            measure_attention(encoder, images, label="x", batch=batch, **more)

                        what = f"{title}, {name}, slices of {entries / 1e6:g} million"
                        taken = seconds(sizes, read, max(sizes.repeats // 3, 1), warm=1)
                        tell(Row("attention", what, taken / floor, "of the bare pass"))
                        tell(Row("attention", f"memory, {what}", peak_gb(sizes, read), "GB", "< 2"))


def curvature(sizes: Sizes) -> None:
    """A Hessian product from scratch and on a kept first pass, in gradients."""
    side = MODELS[sizes.model][0]
    encoder = vit(sizes, side)
    images = torch.rand(sizes.curved, 3, side, side, device=sizes.device)

    def loss(batch: torch.Tensor) -> torch.Tensor:
        return encoder.module(batch).square().mean()

    halves = list(images.split(max(len(images) // 2, 1)))
    matrix = Hessian(loss, list(encoder.module.parameters()), halves, [len(half) for half in halves])
    vector = torch.randn(matrix.size, device=sizes.device)
    name = f"ViT-{sizes.model}, {sizes.curved} images of {side} px"
    gradient = seconds(sizes, matrix.gradient, warm=1)
    tell(Row("curvature", f"a gradient, {name}", gradient, "s"))
    product = seconds(sizes, lambda: matrix(vector), warm=1)
    tell(Row("curvature", f"a product from scratch, {name}", product / gradient, "gradients", "3.2"))
    memory = peak_gb(sizes, lambda: matrix(vector))
    with matrix.keeping():
        kept = seconds(sizes, lambda: matrix(vector), warm=2)
        note = f"{len(matrix._kept)} of {len(halves)} micro-batches kept"
    tell(Row("curvature", f"a product on kept passes, {name}", kept / gradient, "gradients", "2.2", note))
    tell(Row("curvature", "memory of a product", memory, "GB"))


def features(sizes: Sizes) -> None:
    """The features probe beside the forward passes."""
    side = MODELS[sizes.model][0]
    encoder = vit(sizes, side)
    count = 128 if sizes.cuda else 8
    images = torch.rand(count, 3, side, side, device=sizes.device)

    def bare() -> None:
        with torch.no_grad():
            for part in images.split(32):
                encoder.tokens(encoder.normalise(part))

    floor = seconds(sizes, bare, 3, warm=1)
    taken = seconds(sizes, lambda: measure_features(encoder, images, label="x", batch=32), 2, warm=1)
    tell(Row("features", f"{count} images of {side} px", taken / floor, "of the bare pass", "1.15"))


def same_numbers(sizes: Sizes) -> None:
    """Attention numbers on the device and on a CPU, float32."""
    _, patch, *_ = MODELS["Ti/4"]
    encoder = vit(sizes, 8 * patch, depth=2)
    images = torch.rand(4, 3, 8 * patch, 8 * patch)
    there = measure_attention(encoder, images.to(sizes.device), label="x").table["value"]
    encoder.module.to("cpu")
    here = measure_attention(encoder, images, label="x").table["value"]
    worst = float(((there - here).abs() / here.abs().clip(lower=1e-3)).max())
    tell(Row("same numbers", "attention, largest relative difference to a CPU", worst, "", "1e-5"))
