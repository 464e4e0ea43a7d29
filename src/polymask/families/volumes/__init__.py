"""Objects of volumes: found slice by slice, and linked from slice to slice."""

from polymask.utils.lazy import lazy_names

__getattr__ = lazy_names(__name__, {"Family": "family", "Loss": "loss", "Samples": "data"})
