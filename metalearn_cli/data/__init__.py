"""Data sets: classes, their splits, and the drawing of batches and episodes."""
