"""Records: the one table, metric names, intervals, the store by content and run folders. No torch here.

Read ``table.py`` first (every number of fdlab is a row of it), then ``store.py`` and ``run_folder.py``.
"""
