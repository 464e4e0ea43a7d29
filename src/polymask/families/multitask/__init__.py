"""A mask and a class per image, together or one of them alone."""
