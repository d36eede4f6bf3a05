"""One run, from its configuration to the files in its folder.

Strategy, data, model and callbacks are put together here and nowhere else. There is no training loop: `fit` trains.
"""
