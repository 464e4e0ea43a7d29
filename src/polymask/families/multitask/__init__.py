"""A mask and a class per image, together or one of them alone."""

from polymask.utils.lazy import lazy_names

__getattr__ = lazy_names(__name__, {"Family": "family", "Loss": "loss", "Samples": "data"})
