"""Runs parity cases in processes of their own, and reads what these have recorded.

Nothing here knows a case or a strategy by its name.
"""
