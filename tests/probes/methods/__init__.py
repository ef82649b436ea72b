"""How transfer carries a backbone over to a labelled task, one method per module."""
