"""Layer 0: the types, errors and functions that every other package builds on."""
