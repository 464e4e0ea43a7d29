"""Networks that give a mask, a class or both of each image."""
