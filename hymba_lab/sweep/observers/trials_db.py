"""Every cell's trials as Optuna studies, for `optuna-dashboard` and Optuna's own plots.

Tuning trials and the compared seeds are two studies, `<sweep>-<scale>` and the same with ` seeds`:
in one they would share a history, and an importance computed from both would be of neither. In a
race every run is a trial, and there is one study. The studies are a record: what to run next is
derived from the runs' folders (`planner.Planner`), so a lost, damaged or half-written file loses
nothing, stops nothing and is filled again.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    distribution_to_json,
)

from hymba_lab.errors import StoreError, TrialFailed, TrialInterrupted
from hymba_lab.runs.database import fault_of, make_whole, url_of
from hymba_lab.runs.postgres import sole_maker
from hymba_lab.runs.store_uri import whole, without_passwords
from hymba_lab.sweep.jobs import Job, Outcome, Stage
from hymba_lab.sweep.session import Session
from hymba_lab.sweep.suggest import distribution, frozen_trial
from hymba_lab.sweep.widening import reachable

FORMAT = 2  # of what a trial says beside its values
_LOCKED_S = 10  # how long a write waits for another process


class TrialsDB:
    """The studies of a sweep in its folder, a sqlite file of their own."""

    def __init__(
        self,
        session: Session,
        uri: str | None = None,
        tell: Callable[[str], None] = print,
    ) -> None:
        """`uri` names another database than the sweep's own file.

        `tell` gets one line where it cannot be used; the sweep goes on without it.
        """
        file = session.sweep.file
        self.goals = file.objectives or [file.metric]
        self.file = (session.folder / "optuna.db").resolve()
        self.uri, self._tell = uri, tell
        self._distributions: dict[str, BaseDistribution] = {
            **{axis: CategoricalDistribution(list(labels)) for axis, labels in file.axes.items()},
            **{
                path: distribution(reachable(span) if file.widen else span)
                for path, span in file.search.items()
            },
        }
        self.studies: dict[Stage, optuna.Study] = {}
        self._known: set[tuple[Any, Any]] = set()
        with self._told_once():
            storage = self._storage(session.name)
            names: dict[Stage, str] = {"tune": session.name, "seed": f"{session.name} seeds"}
            for stage, name in names.items():
                if file.tuning == "race" and stage == "seed":
                    self.studies |= {"race": self.studies["tune"], "seed": self.studies["tune"]}
                elif stage == "seed" or file.trials_per_cell or file.n_trials:
                    self.studies[stage] = self._study(name, storage)
            self._known = {
                (trial.user_attrs.get("run", {}).get("identity"), trial.state)
                for study in self.studies.values()
                for trial in study.get_trials(deepcopy=False)
            }

    def _storage(self, name: str) -> optuna.storages.RDBStorage:
        if self.uri is None:
            make_whole(self.file, _make_tables, f"study of {name}")
            return _opened(url_of(self.file))
        with sole_maker(self.uri, "optuna"):
            return optuna.storages.RDBStorage(
                whole(self.uri), engine_kwargs={"pool_pre_ping": True}
            )

    def _study(self, name: str, storage: optuna.storages.RDBStorage) -> optuna.Study:
        """Return the study; one of an earlier sweep file, with other choices, is made anew."""
        space = {path: distribution_to_json(d) for path, d in self._distributions.items()}
        goals = [goal.model_dump() for goal in self.goals]
        shape = {"format": FORMAT, "space": space, "goals": goals}
        try:
            study = optuna.load_study(study_name=name, storage=storage)
            if study.user_attrs == shape:
                return study
            optuna.delete_study(study_name=name, storage=storage)
        except KeyError:
            pass
        directions = [goal.goal for goal in self.goals]
        study = optuna.create_study(study_name=name, storage=storage, directions=directions)
        for key, value in shape.items():
            study.set_user_attr(key, value)
        return study

    def started(self, job: Job) -> None:
        """A trial is recorded once it has ended."""

    def broke_off(self, job: Job, why: TrialInterrupted | TrialFailed) -> None:
        """A trial is recorded once it has ended."""

    def waiting(self, running: Mapping[str, Job]) -> None:
        """Nothing to record."""

    def ended(self, job: Job, outcome: Outcome, trained: bool) -> None:
        """Add the trial, once for each way in which it ended."""
        if job.stage not in self.studies:
            return
        params = {**job.cell.choice, **job.params}
        mine = {path: span for path, span in self._distributions.items() if path in params}
        run = {"identity": job.identity, "seed": job.seed}
        reason = {"reason": outcome.reason} if outcome.reason else {}
        # one attribute: each takes Optuna a tenth of the time of the whole trial
        trial = frozen_trial(job, outcome, self.goals, mine, {"run": run | reason})
        if (job.identity, trial.state) in self._known:
            return
        self._known.add((job.identity, trial.state))
        with self._told_once():
            self.studies[job.stage].add_trial(trial)

    @contextmanager
    def _told_once(self) -> Iterator[None]:
        """Say once why the file cannot be used, and go on without it."""
        try:
            yield
        except Exception as error:  # Optuna lets several database packages' errors through
            self.studies = {}
            said = without_passwords(" ".join(str(error).split()))[:300]
            self._tell(f"Optuna's study {self.uri or self.file}: {said} {self._way_out(error)}")

    def _way_out(self, error: Exception) -> str:
        if isinstance(error, StoreError) or self.uri is not None:
            return "The sweep goes on without it."
        fault = fault_of(self.file) if self.file.is_file() else "is no file"
        if fault is None and "locked" in str(error):
            return "Another process holds it. The sweep goes on; run it again to fill in the rest."
        return "The sweep goes on; delete the file and run it again: it is filled from runs/."


def _opened(url: str) -> optuna.storages.RDBStorage:
    patience = {"connect_args": {"timeout": _LOCKED_S}}
    return optuna.storages.RDBStorage(url, engine_kwargs=patience)


def _make_tables(url: str) -> None:
    """Fill a new sqlite file with Optuna's tables; the engine lets go of it again."""
    storage = _opened(url)
    storage.remove_session()
    storage.engine.dispose()
