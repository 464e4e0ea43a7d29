"""Tested runs gathered into studies: cross-validations and single runs."""
