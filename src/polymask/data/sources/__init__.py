"""Readers of data sets on disk: each returns the records and the names of the classes."""
