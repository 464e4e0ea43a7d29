"""Mask R-CNN: boxes, classes and masks of single objects."""
