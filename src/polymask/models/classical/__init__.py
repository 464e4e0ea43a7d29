"""No network: one dark region found by thresholding, to which learned models can be compared."""

from polymask.utils.lazy import lazy_names

__getattr__ = lazy_names(__name__, {"build_model": "segmenter"})
