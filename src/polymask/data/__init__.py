"""Data sets, splits, cache, transforms and samplers: from files on disk to batches."""
