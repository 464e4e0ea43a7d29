"""Which sample is in which subset, and which samples belong together."""
