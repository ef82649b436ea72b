"""Layer 1: how transfer carries a backbone over to a labelled task."""
