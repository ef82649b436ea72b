"""Layer 1: what pretraining wraps around a backbone, one model per module."""
