"""Cases whose answer is known, run through the same code as any model: ``fdlab doctor --probes``.

Read ``check.py`` first, then ``attention.py``; ``doctor.py`` runs them all, ``second_opinion.py`` asks another package.
"""
