"""``python -m tests.benchmarks.engine``: one distilling step written as the official code does it, and ours.

(a) attention scores written out with float32 softmax, a 1x1 convolution between two permutes as head, the mean and
std of the images changed twice a step, AdamW parameter by parameter, the loss and the gradient norm read each step; on
a GPU float16 with a scaler and a synchronisation each step. (b) fused attention, a linear head, one normalisation,
fused AdamW, nothing read; on a GPU bfloat16, the bias aligned for the kernel that returns its gradient, the teacher in
bfloat16 without autocast, and with ``--compile`` each block compiled.

Same weights and batch, one process, interleaved; the first losses must agree. The ratio of the best steps of each is
the one to read where other programs run; a second table is the input pipeline's (``pipeline.py``). On a GPU:
``python -m tests.benchmarks.engine --device cuda --model B/16 --batch 256 --compile``.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdlab.encoders.cost import cost_of, dense
from fdlab.encoders.position_bias import align_bias
from fdlab.encoders.student import Design, build
from fdlab.engine.hardware import peak
from fdlab.measures.losses import feature_loss, whiten
from tests.benchmarks import pipeline

MODELS = {"Ti/4": (32, 4, 192, 12, 3), "S/16": (224, 16, 384, 12, 6), "B/16": (224, 16, 768, 12, 12)}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def networks(name: str, depth: int, device: str) -> tuple[nn.Module, nn.Module, nn.Linear]:
    size, patch, width, blocks, heads = MODELS[name]
    common = {"class_token": True, "layer_scale": 0.1, "init": "beit"}
    student = build(Design(size, patch, width, depth or blocks, heads, **common), seed=0)
    teacher = build(Design(size, patch, width, depth or blocks, heads, class_token=True, position="learned"), seed=1)
    torch.manual_seed(0)
    head = nn.Linear(width, width)
    return student.to(device), teacher.to(device).eval().requires_grad_(False), head.to(device)


def fuse(module: nn.Module, on: bool) -> None:
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = on


def constants(images: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(value, device=images.device).view(1, 3, 1, 1) for value in (MEAN, STD))
    return mean, std


def official(student: nn.Module, teacher: nn.Module, linear: nn.Linear) -> Callable[[Tensor], float]:
    student, teacher = copy.deepcopy(student), copy.deepcopy(teacher)
    head = nn.Conv1d(linear.in_features, linear.out_features, 1).to(linear.weight.device)
    head.load_state_dict({"weight": linear.weight.detach().unsqueeze(-1), "bias": linear.bias.detach()})
    fuse(student, False)
    fuse(teacher, False)
    parameters = [*student.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, foreach=False)
    cuda = linear.weight.is_cuda
    scaler = torch.amp.GradScaler(enabled=cuda)

    def step(images: Tensor) -> float:
        mean, std = constants(images)
        normal = (images - mean) / std
        if bool((std == 0).any()):
            raise ValueError
        with torch.autocast("cuda", torch.float16, enabled=cuda):
            with torch.no_grad():
                goal = whiten(teacher.forward_features((normal * std + mean - mean) / std))
            tokens = student.forward_features(normal)
            loss = F.smooth_l1_loss(head(tokens.permute(0, 2, 1)).permute(0, 2, 1).float(), goal, beta=2.0)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        float(nn.utils.clip_grad_norm_(parameters, 3.0, foreach=False))
        scaler.step(optimizer)
        scaler.update()
        if cuda:
            torch.cuda.synchronize()
        return loss.item()

    return step


def ours(student: nn.Module, teacher: nn.Module, linear: nn.Linear, compiled: bool) -> Callable[[Tensor], Tensor]:
    student, teacher, head = copy.deepcopy(student), copy.deepcopy(teacher), copy.deepcopy(linear)
    cuda = linear.weight.is_cuda
    if cuda:
        align_bias(student)
        teacher.to(torch.bfloat16)
    if compiled:
        for block in (*student.blocks, *teacher.blocks):
            block.compile(dynamic=False)
    parameters = [*student.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    mean, std = constants(linear.weight)

    def step(images: Tensor) -> Tensor:
        normal = (images - mean) / std
        with torch.inference_mode():
            tokens = teacher.forward_features(normal.to(next(teacher.parameters()).dtype)).float()
        goal = whiten(tokens)
        with torch.autocast("cuda", torch.bfloat16, enabled=cuda):
            loss = feature_loss(head(student.forward_features(normal)), goal, "smooth_l1", beta=2.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 3.0, foreach=True)
        optimizer.step()
        return loss.detach()

    return step


def seconds(step: Callable[[Tensor], object], images: Tensor, repeats: int) -> float:
    """Of one step: on a CPU the shortest of ``repeats``, on a GPU their mean, for it works ahead."""
    taken = []
    for _ in range(1 if images.is_cuda else repeats):
        before = time.perf_counter()
        for _ in range(repeats if images.is_cuda else 1):
            step(images)
        if images.is_cuda:
            torch.cuda.synchronize()
        taken.append((time.perf_counter() - before) / (repeats if images.is_cuda else 1))
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", choices=sorted(MODELS), default="Ti/4")
    parser.add_argument("--depth", type=int, default=0, help="blocks; 0: the model's own")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3, help="steps a measurement")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps-only", action="store_true", help="not the input pipeline")
    parser.add_argument("--compile", action="store_true")
    own = parser.parse_args()
    student, teacher, head = networks(own.model, own.depth, own.device)
    images = torch.rand(own.batch, 3, MODELS[own.model][0], MODELS[own.model][0], device=own.device)
    steps = {"official": official(student, teacher, head), "ours": ours(student, teacher, head, own.compile)}
    first = {name: float(step(images)) for name, step in steps.items()}
    assert abs(first["official"] - first["ours"]) < (2e-2 if own.device == "cuda" else 1e-5) * first["ours"], first
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(own.rounds + 1):
        for name in sorted(steps, reverse=bool(turn % 2)):
            taken = seconds(steps[name], images, own.repeats)
            if turn:  # the first round warms up
                times[name].append(taken)
    fast, slow, tokens = cost_of(student), cost_of(teacher), student.patch_embed.num_patches + 1
    flops = own.batch * (fast.training() + 3 * dense(head, tokens) + slow.forward)
    print(f"{own.model} on {own.device}, batch {own.batch}, {own.rounds} rounds of {own.repeats} steps, best rounds")
    for name, taken in times.items():
        rate = flops / min(taken)
        share = rate / peak(own.device, own.device != "cpu")
        print(f"{name:9} {own.batch / min(taken):9.1f} images/s  {rate / 1e12:8.3f} TFLOP/s  {share:6.1%} of the peak")
    ratios = sorted(a / b for a, b in zip(times["official"], times["ours"], strict=True))
    best = min(times["official"]) / min(times["ours"])
    print(f"ours / official: {best:.2f} (rounds {ratios[0]:.2f} to {ratios[-1]:.2f}, {statistics.median(ratios):.2f})")
    if not own.steps_only:
        pipeline.measure(images=64, batch=32, rounds=5)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
