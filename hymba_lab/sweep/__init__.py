"""One YAML question in, one table out: cells, planner, workers, verdict."""

from hymba_lab.cli import callable_package

callable_package(__name__, "hymba_lab.sweep.run", "run_sweep")
