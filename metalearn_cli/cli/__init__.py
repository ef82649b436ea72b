"""Layer 3: the command line. The only place that knows Hydra, and the only one that prints."""
