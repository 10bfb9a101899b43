"""Report: pictures, captions and the page, made from one table and a few facts. No torch, no new statistic.

Read ``summary.py`` first (which rows mean what), then ``figures/__init__.py`` and ``page.py``.
"""
