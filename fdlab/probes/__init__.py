"""Probes: one model and some images in, one record (table, per-image arrays, manifest) out.

``measure`` finds a probe by name and goes through the store. Read ``measure.measure``, then ``attention``.
"""
