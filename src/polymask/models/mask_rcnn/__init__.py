"""Mask R-CNN: boxes, classes and masks of single objects."""

from polymask.utils.lazy import lazy_names

__getattr__ = lazy_names(__name__, {"build_model": "model"})
