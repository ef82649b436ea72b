"""Layer 3: studies of whole chains, which run stages and compare their records."""
