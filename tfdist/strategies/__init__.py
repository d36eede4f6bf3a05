"""One file a strategy; `create_strategy` is the one way in."""
