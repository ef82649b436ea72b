"""A plug-in for tests of the stages: the smallest components that each have one thing which none of our own has."""
