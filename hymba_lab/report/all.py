"""Everything that a folder of exports gives: pages of sweeps, slopes over scales, the index."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from hymba_lab.report.find import beside, chosen
from hymba_lab.report.slopes import write_slopes
from hymba_lab.report.write import write_index, write_sweeps


def report(
    sweeps: Sequence[str] = (),
    *,
    results: Path = Path("results"),
    tracking_uri: str | None = None,
) -> Iterator[Path]:
    """Write tables, figures and pages of exported sweeps, by default of all; yield the pages.

    A sweep that is named by its folder is looked for there, and its pages are written beside it.
    With a `tracking_uri` the sweeps are exported from that MLflow store first.
    """
    if tracking_uri:
        from hymba_lab.report.mlflow_runs import export_from  # imports mlflow: seconds

        sweeps = export_from(tracking_uri, list(sweeps), results)
    results = beside(list(sweeps), results)
    yield from write_sweeps(chosen(results, list(sweeps)), results)
    yield from write_slopes(chosen(results, []), results)
    yield write_index(results)
