"""Mask R-CNN that sees a slice of a volume together with its neighbours (2.5D)."""

from polymask.utils.lazy import lazy_names

__getattr__ = lazy_names(__name__, {"build_model": "model"})
