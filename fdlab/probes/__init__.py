"""Probes: one model and some images in, one record (table, per-image arrays, manifest) out.

``probe.PROBES`` lists them; ``measure`` asks the store first. Read ``probe.Probe``, then ``measure.measure``.
"""
