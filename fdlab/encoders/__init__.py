"""Any checkpoint, run folder or timm name becomes one ``Encoder``.

Read ``encoder.py`` first, then ``open.py``; ``families/`` holds one declarative entry per layout.
"""
