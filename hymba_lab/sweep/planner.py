"""What to run next, as a pure function of what has finished.

A cell first tunes its hyperparameters on a seed of its own (`tune_seed`), then repeats the winner
over `seeds`, or all of them race over `seeds`; where that is asked for, further seeds follow until
it is decided, and a race goes on over them. No state survives a process: whoever starts again
derives the same jobs from the same results, whatever the order in which they came in.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from hymba_lab.config import resolve
from hymba_lab.cost.many import Meter
from hymba_lab.errors import ConfigError
from hymba_lab.runs.record import identity_of
from hymba_lab.stages.chain import identities
from hymba_lab.stats import Looks
from hymba_lab.sweep.cells import Cell, cell_costs
from hymba_lab.sweep.jobs import (
    Job,
    Outcome,
    Outcomes,
    Params,
    Stage,
    pareto_jobs,
    winner,
)
from hymba_lab.sweep.judging import judged
from hymba_lab.sweep.question.file import Metric, Range, Sweep
from hymba_lab.sweep.race import race_jobs, race_of
from hymba_lab.sweep.searched import refused
from hymba_lab.sweep.suggest import suggest
from hymba_lab.sweep.widening import MOST, one_further


class Planner:
    """The jobs of a sweep; needs the data's fingerprint for identities."""

    def __init__(self, sweep: Sweep, cells: Sequence[Cell], fingerprint: str, meter: Meter) -> None:
        self.sweep, self.cells, self.fingerprint = sweep, list(cells), fingerprint
        self._meter = meter
        self._race_for = race_of(sweep)
        self._jobs: dict[tuple[str, str, int, int, str], Job] = {}
        self._suggestions: dict[tuple[str, int], Params] = {}
        self._n_chosen: dict[str, int] = {}  # runs of the rows whose values are chosen
        self._n_runs: int | None = None  # of all, once all have ended
        self._planned: dict[tuple[str, int], tuple[list[Job], list[Outcome | None]]] = {}

    def jobs(self, outcomes: Outcomes) -> list[Job]:
        """Return every job that the outcomes so far determine, finished ones included."""
        found = self._found(outcomes)
        runs = {job.identity for job in found}
        self._n_runs = len(runs) if runs <= outcomes.keys() else None
        return found

    def _found(self, outcomes: Outcomes) -> list[Job]:
        if self.sweep.file.design == "search":
            return list(self._search_jobs(outcomes))
        rows = {cell.label: self._jobs_of(cell, outcomes) for cell in self.cells}
        self._look_on(rows, outcomes)
        self._n_chosen = {
            label: len({job.identity for job in own})
            for label, own in rows.items()
            if any(job.stage == "seed" for job in own) or known(own, outcomes) is not None
        }
        return [job for own in rows.values() for job in own]

    def total(self) -> int:
        """Return how many jobs the sweep comes to (design search, until decided: at least)."""
        file = self.sweep.file
        if self._n_runs is not None:
            return self._n_runs
        if file.design == "search":
            return file.runs_of(len(self.cells))
        return sum(self._n_chosen.get(cell.label, file.runs_per_row) for cell in self.cells)

    def _jobs_of(self, cell: Cell, outcomes: Outcomes, seeds: Sequence[int] = ()) -> list[Job]:
        """Return a cell's jobs, of a race over `seeds`; anew only where one of them has ended."""
        key = cell.label, len(seeds)
        jobs, ended = self._planned.get(key, ([], []))
        now = [outcomes.get(job.identity) for job in jobs]
        if not jobs or any(one is not other for one, other in zip(now, ended, strict=True)):
            race = self.sweep.file.tuning == "race"
            found = self._race(cell, outcomes, seeds) if race else self._cell_jobs(cell, outcomes)
            jobs = list(found)
            self._planned[key] = jobs, [outcomes.get(job.identity) for job in jobs]
        return jobs

    def _cell_jobs(self, cell: Cell, outcomes: Outcomes) -> Iterator[Job]:
        file = self.sweep.file
        tuned: list[Job] = []
        for index in range(file.trials_per_cell):
            past = known(tuned[: self._visible(index)], outcomes)
            if past is None:
                break
            shown = known(tuned, outcomes) if file.pruner.name == "overtaken" else past
            if shown is None:
                break  # one after the other: whoever solves the task bounds those after it
            params = self._suggested(cell.label, file.search, index, past, [file.metric])
            tuned.append(self._job(cell, "tune", index, file.tune_seed, params, shown))
        yield from tuned
        done = known(tuned, outcomes)
        if len(tuned) < file.trials_per_cell or done is None:
            return
        for further in self._widened(cell, tuned, outcomes) if file.widen else ():
            yield further
            tuned.append(further)
        done = known(tuned, outcomes)
        if done is None:
            return
        best = winner(done, file.metric, file.stop) if tuned else None
        if tuned and best is None:
            return  # nothing finished: the row stays without a result
        params = best.params if best else {}
        for index, seed in enumerate(file.seeds):
            yield self._job(cell, "seed", index, seed, params)

    def _race(self, cell: Cell, outcomes: Outcomes, seeds: Sequence[int]) -> list[Job]:
        file = self.sweep.file
        values = [
            self._suggested(cell.label, file.search, index, [], [file.metric])
            for index in range(file.trials_per_cell)
        ]
        make, takes = partial(self._job, cell), partial(self._takes, cell)
        return race_jobs(self._race_for, values, outcomes, make, seeds, takes)

    def _widened(self, cell: Cell, tuned: Sequence[Job], outcomes: Outcomes) -> Iterator[Job]:
        """Further trials past the edge of the choices, until the winner is inside."""
        file, jobs = self.sweep.file, list(tuned)
        for _ in range(MOST):
            done = known(jobs, outcomes)
            best = winner(done, file.metric, file.stop) if done else None
            if best is None:
                return
            tried = {path: [job.params[path] for job in jobs] for path in file.search}
            params = one_further(best.params, tried)
            if params is None or not self._takes(cell, params):
                return
            shown = done if file.pruner.name == "overtaken" and done else ()
            job = self._job(cell, "tune", len(jobs), file.tune_seed, params, shown)
            jobs.append(job)
            yield job

    def _look_on(self, rows: dict[str, list[Job]], outcomes: Outcomes) -> None:
        """Give further seeds to the baseline and to the rows that the looks left undecided."""
        looks = self.sweep.file.looks
        for number in range(1, len(looks.sizes) if looks else 1):
            jobs = [job for own in rows.values() for job in own]
            if looks is None or known(jobs, outcomes) is None:
                return
            going_on = self._undecided(jobs, outcomes, looks.first(number))
            seeds = looks.seeds[: looks.sizes[number]]
            for cell in self.cells:
                if cell.label in going_on:
                    own, params = rows[cell.label], going_on[cell.label]
                    rows[cell.label] = self._with_seeds(cell, own, params, seeds, outcomes)

    def _with_seeds(
        self,
        cell: Cell,
        own: Sequence[Job],
        params: Params,
        seeds: Sequence[int],
        outcomes: Outcomes,
    ) -> list[Job]:
        """Return a row's jobs with more seeds; a race goes on; till it is over its old end holds.

        A choice by fewer seeds, carried on, would be luck that more seeds mistake for an effect.
        """
        if self.sweep.file.tuning == "race":
            further = self._jobs_of(cell, outcomes, seeds)
            if further[-1].stage == "seed":
                return further
        else:
            further = [self._job(cell, "seed", n, seed, params) for n, seed in enumerate(seeds)]
        there = {job.identity for job in own}
        return [*own, *(job for job in further if job.identity not in there)]

    def _undecided(
        self, jobs: Sequence[Job], outcomes: Outcomes, looks: Looks
    ) -> dict[str, Params]:
        """The tuned values of the rows to go on with, the baseline's among them; {} at the end.

        A row of which no seed finished is given up, and all are without one of the baseline.
        """
        params = {job.cell.label: job.params for job in jobs if job.stage == "seed"}
        labels = [cell.label for cell in self.cells]
        if labels[0] not in params:
            return {}
        found = judged(self.sweep, labels, jobs, outcomes, looks)
        rows = [one.label for one in found if not one.decided and one.n]
        return {label: params[label] for label in [labels[0], *rows]} if rows else {}

    def _search_jobs(self, outcomes: Outcomes) -> Iterator[Job]:
        """Optuna chooses the labels too; what no other trial beats is repeated over the seeds."""
        file = self.sweep.file
        spans = {axis: Range(choices=list(labels)) for axis, labels in file.axes.items()}
        goals = file.objectives or [file.metric]
        tried: list[Job] = []
        for index in range(file.n_trials or 0):
            past = known(tried[: self._visible(index)], outcomes)
            if past is None:
                break
            params = self._suggested("", {**spans, **file.search}, index, past, goals)
            choice = {axis: str(params.pop(axis)) for axis in file.axes}
            tried.append(self._job(self._cell(choice), "tune", index, file.tune_seed, params, past))
        yield from tried
        done = known(tried, outcomes)
        if len(tried) < (file.n_trials or 0) or done is None:
            return
        for job in pareto_jobs(done, goals):
            for index, seed in enumerate(file.seeds):
                yield self._job(job.cell, "seed", index, seed, job.params)

    def _visible(self, index: int) -> int:
        """Return how many of the earlier trials number `index` may look at."""
        sampler = self.sweep.file.sampler
        return 0 if index < sampler.n_startup_trials else max(0, index - sampler.lag + 1)

    def _suggested(
        self,
        place: str,
        spans: Mapping[str, Range],
        index: int,
        past: Sequence[tuple[Job, Outcome]],
        goals: Sequence[Metric],
    ) -> Params:
        """Ask Optuna once per trial: the same past always gives the same answer."""
        if (place, index) not in self._suggestions:
            self._suggestions[place, index] = suggest(self.sweep, spans, index, past, goals)
        return dict(self._suggestions[place, index])

    def _cell(self, choice: dict[str, str]) -> Cell:
        return next(cell for cell in self.cells if cell.choice == choice)

    def _job(
        self,
        cell: Cell,
        stage: Stage,
        index: int,
        seed: int,
        params: Params,
        past: Sequence[tuple[Job, Outcome]] = (),
    ) -> Job:
        key = (cell.label, stage, index, seed, repr(sorted(params.items())))
        if key not in self._jobs:
            tuned = self._with(cell, params)
            config = tuned.config
            if config.model != cell.config.model:  # tuned values that cost something
                cell = tuned
            history = tuple(outcome for _, outcome in past)
            digest = config.digest
            identity = identity_of(digest, seed, self.fingerprint)
            *before, _ = identities(config, seed, self.fingerprint) if config.stages else [identity]
            made = Job(
                cell, stage, index, seed, params, config, digest, identity, history, tuple(before)
            )
            self._jobs[key] = made
        return self._jobs[key]

    def _with(self, cell: Cell, params: Params) -> Cell:
        """Return the row with these values, and what they cost; a refusal names both."""
        if not params:
            return cell
        document = cell.document
        for path, value in params.items():
            document = document.patched(path, value, self.sweep.document.where(["search", path]))
        try:
            config = resolve(document)
            same = config.model == cell.config.model
            costs = cell.costs if same else cell_costs(config, self._meter)
        except ConfigError as error:
            raise refused(self.sweep, cell, params, error) from None
        return replace(cell, config=config, costs=costs)

    def _takes(self, cell: Cell, params: Params) -> bool:
        """Whether values past the choices are still ones that their fields take."""
        try:
            self._with(cell, params)
        except ConfigError:
            return False
        return True


def known(jobs: Sequence[Job], outcomes: Outcomes) -> list[tuple[Job, Outcome]] | None:
    """Return the jobs with their outcomes, or None while one is still out."""
    if any(job.identity not in outcomes for job in jobs):
        return None
    return [(job, outcomes[job.identity]) for job in jobs]
