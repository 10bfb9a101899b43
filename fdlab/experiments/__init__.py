"""Experiments: design and distillation as two factors, at two sizes. ``digits.py`` is the demo, CIFAR-10 the study.

Read ``two_factors.py`` first.
"""
