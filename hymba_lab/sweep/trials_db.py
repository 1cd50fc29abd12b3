"""Every cell's trials as an Optuna study, for `optuna-dashboard` and Optuna's own plots.

The study is a record: what to run next is derived from the runs' folders (`study.Planner`), so a
lost or half-written study loses nothing and is filled again.
"""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from hymba_lab.errors import StoreError
from hymba_lab.sweep.session import Session
from hymba_lab.sweep.study import Job, Outcome, distribution, frozen_trial


class TrialsDB:
    """The study `<sweep>-<scale>` in the sweep's folder, a sqlite file of its own."""

    def __init__(self, session: Session) -> None:
        file = session.sweep.file
        self.goals = file.objectives or [file.metric]
        self.url = f"sqlite:///{session.folder / 'optuna.db'}"
        self._distributions: dict[str, BaseDistribution] = {
            **{axis: CategoricalDistribution(list(labels)) for axis, labels in file.axes.items()},
            **{path: distribution(span) for path, span in file.search.items()},
        }
        try:
            self.study = optuna.create_study(
                study_name=session.name,
                storage=self.url,
                directions=[goal.goal for goal in self.goals],
                load_if_exists=True,
            )
            trials = self.study.get_trials(deepcopy=False)
        except Exception as error:  # Optuna lets several database packages' errors through
            raise StoreError(
                f"{self.url}: {type(error).__name__}: {error}; delete the file, it is filled again."
            ) from None
        self._known = {trial.user_attrs.get("identity") for trial in trials}

    def started(self, job: Job) -> None:
        """A trial is recorded once it has ended."""

    def waiting(self, running: Mapping[str, Job]) -> None:
        """Nothing to record."""

    def ended(self, job: Job, outcome: Outcome, trained: bool) -> None:
        """Add the trial, once."""
        if job.identity in self._known:
            return
        self._known.add(job.identity)
        params = {**job.cell.choice, **job.params}
        mine = {path: span for path, span in self._distributions.items() if path in params}
        attributes: dict[str, Any] = {
            "identity": job.identity, "cell": job.cell.label, "stage": job.stage, "seed": job.seed,
            "reason": outcome.reason,
        }  # fmt: skip
        try:
            self.study.add_trial(frozen_trial(job, outcome, self.goals, mine, attributes))
        except Exception as error:
            raise StoreError(f"{self.url}: {type(error).__name__}: {error}.") from None
