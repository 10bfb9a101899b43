"""Tasks: what one training step computes. A task writes no files and owns no loop.

Read ``base.py`` (what every task has), then ``distill.py`` (the paper's method).
"""
