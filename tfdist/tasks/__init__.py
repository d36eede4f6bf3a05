"""What is learned: the head, the loss, the metrics and the report of each task."""
