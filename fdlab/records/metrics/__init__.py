"""Every metric as data: its unit, bounds, formula and source, what it says and what it does not.

One TOML file for each probe holds the entries; ``metric.py`` says how they are written. Captions, axis labels, tables
and ``fdlab explain NAME`` all read them. ``names.py`` has the names that code shares with them.
"""

from fdlab.records.metrics.metric import METRICS, Metric, find_metric

__all__ = ["METRICS", "Metric", "find_metric"]
