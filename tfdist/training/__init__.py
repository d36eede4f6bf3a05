"""One run from a configuration: the only place that composes strategy, data, model and callbacks."""
