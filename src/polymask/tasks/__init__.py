"""What is learned: each task owns its network, its losses and its metrics."""
