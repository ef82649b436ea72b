"""Layer 1: the networks that all stages share, one per module."""
