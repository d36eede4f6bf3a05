"""Runs parity cases in processes of their own, and reads what they recorded."""
