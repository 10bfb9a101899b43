"""What a model is: tokens, attention and logits of any vision transformer, read where the model computes them.

Read ``encoder.py`` first, then ``tap.py``; nothing here knows a file format or a data set.
"""
