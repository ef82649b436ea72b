"""Few-shot and meta-learning from the command line: pretrain, transfer, meta-train, evaluate."""

__version__ = "0.1.0"
