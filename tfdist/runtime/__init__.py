"""Devices of this process and its place among the others."""
