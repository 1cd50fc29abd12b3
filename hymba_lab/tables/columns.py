"""The columns of an export's `runs.csv` and `curves.csv`, written down once.

A line of `runs.csv` is a compared run: `row` (label of the cell), one text column per axis, the
values that tuning chose, and the columns below; metrics stand under their own names
("val/recall_accuracy"). A line of `curves.csv` is one metric at one validation of such a run.
"""

WHICH = ("row", "seed", "status", "reason")
STATUSES = ("finished", "failed", "pruned", "missing")
COSTS = ("params", "flops_per_token", "cache_bytes", "ssm_to_attention")  # of the row's model
MEASURED = ("tokens_per_second", "seconds")
SHARED = ("data_fingerprint", "tokens", "code_version", "scale")  # alike in all runs of a table
WHENCE = ("commit", "dirty")
SOLVING = ("solved", "tokens_to_solve", "censored_at", "tokens_trained")  # where a sweep may stop

NEEDED = (*WHICH, *COSTS, MEASURED[0], *SHARED, "identity", *WHENCE)  # by every table
TAKEN = frozenset((*NEEDED, *MEASURED, *SOLVING, "stage"))  # no axis may have such a name
TEXT = ("row", "status", "reason", "identity", "data_fingerprint", "scale", "commit")

CURVE_TEXT = ("row", "metric")
CURVE_NUMBERS = ("seed", "step", "tokens", "value")
CURVE = ("row", "seed", "step", "tokens", "metric", "value")
