"""What pretraining wraps around a backbone, one model per module."""
