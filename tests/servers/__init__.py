"""Servers that tests and the bench start for themselves; none that is found running is ever used."""
