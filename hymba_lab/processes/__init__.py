"""Processes that work for this one, and that end without a word of Python's."""
