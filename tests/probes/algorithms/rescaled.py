"""Another learner with tensors of the same names."""

from probes.algorithms.scaled import Scaled


class Rescaled(Scaled):
    """The same under another name."""
