"""The columns of the probes' CSV files, written down once; no torch is needed to read them."""

WHICH = ("sweep", "row", "seed")
COLUMNS = {  # after those
    "mass": ["data", "layer", "branch", "head", "category", "value"],
    "meta_attention": ["data", "layer", "token", "value"],
    "entropy": ["data", "layer", "branch", "head", "value", "uniform"],
    "distance": ["data", "layer", "branch", "value"],
    "erf": ["data", "tokens", "cache_bytes", "value"],
    "magnitudes": ["data", "layer", "branch", "what", "value"],
    "removal": ["layer", "branch", "metric", "whole", "value", "change"],
    "needle": ["length", "depth", "trained_length", "n", "chance", "value", "answered"],
}
TEXT = ("sweep", "row", "data", "branch", "category", "what", "metric")
