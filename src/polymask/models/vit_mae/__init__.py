"""The masked autoencoder: a vision transformer that predicts hidden patches from the others."""

from polymask.utils.lazy import lazy_names

__getattr__ = lazy_names(__name__, {"build_mae": "builder"})
