"""Code that the backbones share. A config cannot name it."""
