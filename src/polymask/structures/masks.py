"""What the values of masks mean."""

IGNORE = 255
"""Value of pixels that count in no loss and no metric: (H, W) uint8 masks have 0 = background."""
