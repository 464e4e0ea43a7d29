"""The trainer and everything whose state a checkpoint holds."""
