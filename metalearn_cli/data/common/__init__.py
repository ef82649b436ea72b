"""What the data sets share: classes and episodes, the cache, what can be wrong. Not to be named in a config."""
