"""Data sets that are drawn rather than recorded, for demonstrations and tests."""

from polymask.utils.lazy import lazy_names

__getattr__ = lazy_names(
    __name__, {"read_ctc_demo": "volumes", "read_demo": "reader", "write_demo_dataset": "reader"}
)
