"""Single objects, each with a class, a box and a mask."""
