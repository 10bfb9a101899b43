"""Several models judged together, from their records alone: cohorts and paired differences. No torch.

Read ``paired.py`` first; ``fdlab.study.comparison`` measures what is missing and writes the report.
"""
