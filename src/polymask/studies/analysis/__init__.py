"""Statistics and pictures of a data set."""
