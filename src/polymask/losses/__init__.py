"""Losses: named terms, and their weighted sum over the two parts of a batch, masks and classes.

- `segmentation`: terms on mask logits (B, C, H, W) and masks (B, H, W), 255 = ignore.
- `classification`: terms on class logits (B, K) and labels (B,), and the class weights they may use.
- `multitask`: the sum, for batches in which some samples lack a mask or a label.

Every term is a module `forward(logits, target) -> scalar` in float32 that never waits for the device.
"""
