"""One ablation axis per file; each file holds the axis's registry and every answer to it."""
