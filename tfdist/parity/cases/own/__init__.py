"""Losses and steps that users write with the words of `tfdist.own_steps`; docs/custom-steps.md shows them."""
