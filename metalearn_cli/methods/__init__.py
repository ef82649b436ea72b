"""Layer 1: the methods of transfer, one per module."""
