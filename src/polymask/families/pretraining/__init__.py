"""Images that are put together again from a part of them: pre-training without labels."""

from polymask.utils.lazy import lazy_names

__getattr__ = lazy_names(__name__, {"Family": "family", "Loss": "loss", "Samples": "data"})
