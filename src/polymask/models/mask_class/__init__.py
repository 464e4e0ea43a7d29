"""Networks that give a mask, a class or both of each image."""

from polymask.utils.lazy import lazy_names

__getattr__ = lazy_names(__name__, {"build_smp": "smp", "build_unet": "unet_family"})
