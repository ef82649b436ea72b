"""Code that the data sets share: classes and episodes, the cache, checks. A config cannot name it."""
