"""Every cell's trials as an Optuna study, for `optuna-dashboard` and Optuna's own plots.

The study is a record: what to run next is derived from the runs' folders (`study.Planner`), so a
lost or half-written study loses nothing and is filled again.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    distribution_to_json,
)

from hymba_lab.errors import StoreError, TrialInterrupted
from hymba_lab.runs.postgres import sole_maker
from hymba_lab.runs.store_uri import whole
from hymba_lab.sweep.jobs import Job, Outcome
from hymba_lab.sweep.session import Session
from hymba_lab.sweep.suggest import distribution, frozen_trial
from hymba_lab.sweep.widening import reachable


class TrialsDB:
    """The study `<sweep>-<scale>` in the sweep's folder, a sqlite file of its own."""

    def __init__(self, session: Session, uri: str | None = None) -> None:
        """`uri` names another database than the sweep's own file."""
        file = session.sweep.file
        self.goals = file.objectives or [file.metric]
        self.shown = uri or f"sqlite:///{session.folder / 'optuna.db'}"
        self.url = whole(self.shown)
        self._distributions: dict[str, BaseDistribution] = {
            **{axis: CategoricalDistribution(list(labels)) for axis, labels in file.axes.items()},
            **{
                path: distribution(reachable(span) if file.widen else span)
                for path, span in file.search.items()
            },
        }
        with self._readable_errors(), sole_maker(self.shown, "optuna"):
            self.study = self._opened(session.name)
            trials = self.study.get_trials(deepcopy=False)
        self._known = {(trial.user_attrs.get("identity"), trial.state) for trial in trials}

    def _opened(self, name: str) -> optuna.Study:
        """Return the study; one of an earlier sweep file, with other choices, is made anew."""
        space = {path: distribution_to_json(d) for path, d in self._distributions.items()}
        shape = {"space": space, "goals": [goal.model_dump() for goal in self.goals]}
        try:
            study = optuna.load_study(study_name=name, storage=self.url)
            if study.user_attrs == shape:
                return study
            optuna.delete_study(study_name=name, storage=self.url)
        except KeyError:
            pass
        directions = [goal.goal for goal in self.goals]
        study = optuna.create_study(study_name=name, storage=self.url, directions=directions)
        for key, value in shape.items():
            study.set_user_attr(key, value)
        return study

    def started(self, job: Job) -> None:
        """A trial is recorded once it has ended."""

    def broke_off(self, job: Job, why: TrialInterrupted) -> None:
        """A trial is recorded once it has ended."""

    def waiting(self, running: Mapping[str, Job]) -> None:
        """Nothing to record."""

    def ended(self, job: Job, outcome: Outcome, trained: bool) -> None:
        """Add the trial, once for each way in which it ended."""
        params = {**job.cell.choice, **job.params}
        mine = {path: span for path, span in self._distributions.items() if path in params}
        attributes: dict[str, Any] = {
            "identity": job.identity, "cell": job.cell.label, "stage": job.stage, "seed": job.seed,
            "reason": outcome.reason,
        }  # fmt: skip
        trial = frozen_trial(job, outcome, self.goals, mine, attributes)
        if (job.identity, trial.state) in self._known:
            return
        self._known.add((job.identity, trial.state))
        with self._readable_errors():
            self.study.add_trial(trial)

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Optuna lets several database packages' errors through
            said = " ".join(str(error).split())[:300]
            raise StoreError(
                f"{self.url}: {type(error).__name__}: {said}; delete the file, it is filled again."
            ) from None
