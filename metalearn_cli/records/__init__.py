"""Layer 1: what a run leaves on the disk: run folders, checkpoints, metrics, pictures."""
