"""Layer 1: the loop, checkpoints, runs, metrics and the device."""
