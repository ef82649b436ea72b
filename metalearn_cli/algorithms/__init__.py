"""Layer 1: how meta-training learns, one pure function of an episode per module."""
