"""Layer 1: the models of pretraining, each around a backbone, one per module."""
