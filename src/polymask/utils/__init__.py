"""Small functions that more than one package needs."""
