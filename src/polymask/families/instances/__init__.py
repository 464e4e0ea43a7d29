"""Single objects, each with a class, a box and a mask."""

from polymask.utils.lazy import lazy_names

__getattr__ = lazy_names(__name__, {"Family": "family", "Loss": "loss", "Samples": "data"})
