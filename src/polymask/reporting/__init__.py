"""What the test reports of all families share."""
