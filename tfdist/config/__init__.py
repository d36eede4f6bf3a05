"""Typed configuration of a run; standard library and PyYAML only."""
