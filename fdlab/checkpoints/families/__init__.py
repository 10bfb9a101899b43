"""One declarative entry per checkpoint layout, each in its own file.

Read ``family.py`` first, then ``dino.py``; a new family is one file here and one line in ``recognise.py``.
"""
