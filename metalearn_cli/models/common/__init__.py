"""Code that the models share. A config cannot name it."""
