"""Files and datasets to batches; nothing here knows of strategies."""
