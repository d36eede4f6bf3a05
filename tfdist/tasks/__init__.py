"""What is learned: the head, the loss, the metrics and the report of each task, one file a task.

No strategy is known here.
"""
