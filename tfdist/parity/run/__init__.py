"""Runs parity cases in processes of their own and reads what they recorded.

No case and no strategy is known here by name.
"""
