"""What the backbones share. Not to be named in a config."""
