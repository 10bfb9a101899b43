"""The engine: how any training runs. It does not know which task it runs.

Read ``trainer.py`` (the one loop) first; ``recipe.py`` is its settings, ``optim.py`` its optimiser,
``distributed.py`` and ``strategy.py`` what several processes change.
"""
