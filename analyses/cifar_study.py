"""The study on CIFAR-10: is it the distillation, or the student's design?"""

from fdlab.study.factorial import Size

CPU = Size(
    name="cpu",
    train="torchvision:CIFAR10#train[:20000]",
    test="torchvision:CIFAR10#test[:4000]",
    validation=2000,
    common={"run.batch": 64, "run.precision": "float32", "run.device": "cpu", "optim.lr": 2e-3},
    model={"width": 64, "depth": 4, "heads": 4},
    steps={"contrastive": 400, "masked": 500, "supervised": 400, "distill": 400, "finetune": 120, "few": 80},
    rates=(6e-4, 2e-3, 6e-3, 2e-2),
    costs={"contrastive": 300, "masked": 150, "supervised": 140, "distill": 230, "finetune": 140, "few": 140},
)
