"""Measures: tensors in, numbers out; pure arithmetic with its formula and source, no model, no data set.

``attention`` holds everything that is read from an attention map. Read ``attention.attention_metrics`` first.
"""
