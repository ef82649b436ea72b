"""Layer 1: the learners of meta-training, one per module."""
