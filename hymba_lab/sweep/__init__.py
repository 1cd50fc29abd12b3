"""One YAML question in, one table out: cells, study, workers, verdict."""
