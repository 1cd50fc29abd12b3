"""Trained models as files: our own weights, and the released format both ways."""
