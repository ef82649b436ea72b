"""Data sets, one per module."""
