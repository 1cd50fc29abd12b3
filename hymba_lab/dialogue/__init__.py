"""Conversations with a model: templates, history that fits, text as it is made."""
