"""The study: where the rooms meet. The functions behind every verb, for Python users as well.

Read ``training.py`` (one training from recipe to run folder), then ``demo.py`` (a whole small study).
"""
