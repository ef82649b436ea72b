"""How meta-training learns, one learner per module."""
