"""The parity cases, one module for each subject; every module is imported by `tfdist.parity.registry`."""
