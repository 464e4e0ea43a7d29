"""Data sets that are drawn rather than recorded, for demonstrations and tests."""
