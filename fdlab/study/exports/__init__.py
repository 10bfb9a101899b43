"""Models as folders that others use without fdlab: one file for each form, ``export.py`` is the way through them."""
