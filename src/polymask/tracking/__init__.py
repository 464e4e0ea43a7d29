"""Experiment tracking: MLflow behind a small protocol, and the same metrics as a file."""
