"""Several processes that train together: how they start, talk, wait and end.

Nothing here knows a strategy or a model.
"""
