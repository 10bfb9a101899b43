"""One file a timm class: tensors under that class's keys in, the class's arguments and sizes out.

Read ``built.py`` first; ``BUILDERS`` in ``recognise.py`` names them for the families.
"""
