"""One file for each format. A reader yields pairs: where an example stands, for messages; the example."""
