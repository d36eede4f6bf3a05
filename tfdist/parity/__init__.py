"""Tools that compare a strategy with one device, for tests and for `tfdist test`."""
