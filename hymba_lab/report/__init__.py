"""Tables, figures and pages from exports, without torch: `python -m hymba_lab.report`.

`results/<sweep>-<scale>/` holds the export (`hymba_lab.sweep.export`) and, where the models were
probed, `probes/*.csv`. From these alone a report writes, beside them,

    table.md  table.csv  table.tex  figures/<name>.{svg,png,pdf}  report.html

and, over all sweeps, `index.html` and the table in `README.md`. Equal exports give equal bytes.
"""

from hymba_lab.cli import callable_package

callable_package(__name__, "hymba_lab.report.all", "report")
