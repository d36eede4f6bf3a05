"""What is learned: the head, the loss, the metrics and the report of each task, in one file for each task.

Nothing here knows a strategy.
"""
