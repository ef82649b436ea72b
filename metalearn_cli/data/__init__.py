"""Data sets. A data set knows its classes, how they are split, and how to draw batches and episodes from them."""
