"""A masked autoencoder of two small layers, for images of 32 x 32 pixels in 16 patches."""

from __future__ import annotations

SMALL_MAE = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "depth": 2,
    "num_heads": 2,
    "decoder_hidden_size": 32,
    "decoder_depth": 1,
    "decoder_num_heads": 2,
}
