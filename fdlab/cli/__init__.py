"""The command line: one file a verb; each parses, calls one function of ``study`` and prints.

Read ``app.py`` first. Rooms are imported inside the functions, so that ``--help`` stays instant.
"""
