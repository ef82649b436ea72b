"""Layer 1: the files of a run: run folders, checkpoints, metrics, plots."""
