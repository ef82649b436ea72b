"""A plug-in for tests: components that have what none of our own has yet."""
