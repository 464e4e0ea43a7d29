"""Two tested runs, sample by sample."""
