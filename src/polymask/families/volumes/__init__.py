"""Volumes, slice by slice: each slice is seen with its neighbours, and its objects are linked along z."""

from polymask.utils.lazy import lazy_names

__getattr__ = lazy_names(__name__, {"Family": "family", "Loss": "loss", "Samples": "data"})
