"""Layer 1: the training loop, batches of tasks, evaluation and the device."""
