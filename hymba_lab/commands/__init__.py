"""The commands that are no package of their own; importing one imports no torch."""
