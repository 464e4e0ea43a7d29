"""Applying a trained model: from Python, or to folders of images."""
