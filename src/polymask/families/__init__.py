"""What can be learned: a folder per family, with the same file names in each; `base` says what they share."""
