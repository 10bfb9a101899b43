"""Everything that waits for a GPU, in one bounded sitting: ``python -m tests.benchmarks.gpu``."""
