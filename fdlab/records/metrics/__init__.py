"""Every metric as data: its unit, bounds, formula and source, what it says and what it does not.

Read ``metric.py`` first (what an entry is and where all are registered), then the file of one probe.
"""

from fdlab.records.metrics.metric import METRICS, Metric, find_metric

__all__ = ["METRICS", "Metric", "find_metric"]
