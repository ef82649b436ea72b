"""What the models share. Not to be named in a config."""
