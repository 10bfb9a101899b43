"""What a checkpoint file is: any published layout, run folder or timm name becomes one ``Encoder``.

Read ``open.py`` first; ``families/`` holds one declarative entry a layout, ``builders/`` turns it into a timm class.
"""
