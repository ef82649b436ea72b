"""Networks from items to features, one per module."""
