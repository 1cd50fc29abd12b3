"""All laws of every axis, tried on one component after the other."""

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hymba_lab.errors import ConfigError, UserError, last_line
from hymba_lab.testing import generation, laws, plans
from hymba_lab.testing.subjects import PARTS, WIRES, Broken, Subject

Verdict = Literal["kept", "broken", "not tried"]


@dataclass(frozen=True)
class Law:
    """A named law: `holds(subject)` returns, or raises `Broken` with what is wrong."""

    name: str
    holds: Callable[[Subject], None]

    @property
    def text(self) -> str:
        """What the law says."""
        return (inspect.getdoc(self.holds) or "").partition("\n")[0]


@dataclass(frozen=True)
class Outcome:
    """What came of one law for one component."""

    component: str
    law: str
    verdict: Verdict
    said: str = ""


OPTIONS = Law("options", laws.options_round_trip)
MODULES = (
    Law("shape", laws.shape),
    Law("causality", laws.causality),
    Law("rows", laws.rows_apart),
    Law("gradient", laws.gradient),
    Law("seed", laws.same_seed),
    Law("weights", laws.weights_are_all),
    Law("copies", laws.copies),
    Law("bfloat16", laws.bfloat16),
    Law("costs", laws.costs),
)
KEEPERS = (
    Law("memory", generation.remembers),
    Law("padding", generation.padding_leaves_no_trace),
    Law("cache", generation.cache_is_what_it_says),
    Law("generation in bfloat16", generation.generates_in_bfloat16),
)
IN_A_MODEL = Law("generation", generation.generates_in_a_model)
OTHERS = {
    "model.heads": (Law("plan", plans.is_a_plan),),
    "model.order": (Law("plan", plans.is_a_plan),),
    "model.placement": (Law("plan", plans.is_a_plan),),
    "model.kv_sharing": (Law("plan", plans.is_a_plan),),
    "model.topology": (Law("plan", plans.is_a_plan),),
    "data": (Law("batches", plans.is_a_source), Law("validation", plans.validates)),
    "optimizer": (Law("training", plans.trains),),
    "schedule": (Law("factors", plans.is_a_schedule),),
}


def laws_of(subject: Subject) -> tuple[Law, ...]:
    """Return the laws that a component must keep."""
    return laws_of_axis(subject.path)


def laws_of_axis(path: str) -> tuple[Law, ...]:
    """Return the laws of an axis, e.g. `model.ssm`."""
    if path not in WIRES:
        return (OPTIONS, *OTHERS.get(path, ()))
    keepers = KEEPERS if path in PARTS else ()
    return (OPTIONS, *MODULES, *keepers, IN_A_MODEL)


def tried(subject: Subject) -> Iterator[Outcome]:
    """Try every law; where the shape is wrong, what builds on it is not tried."""
    name = f"{subject.path}: {subject.spec.name}"
    if fault := _unbuilt(subject):
        yield Outcome(name, "construction", "broken", fault)
        return
    wrong_shape = False
    for law in laws_of(subject):
        if wrong_shape:
            yield Outcome(name, law.name, "not tried", "its shape is wrong")
            continue
        fault = _fault(subject, law.holds)
        yield Outcome(name, law.name, "broken" if fault else "kept", fault or "")
        wrong_shape = wrong_shape or (law.name == "shape" and bool(fault))


def _unbuilt(subject: Subject) -> str | None:
    if subject.path not in WIRES:
        return None
    return _fault(subject, lambda one: one.wired() and None)


def _fault(subject: Subject, holds: Callable[[Subject], None]) -> str | None:
    """Return what a law says is wrong, or what the component raised and where."""
    try:
        holds(subject)
    except Broken as broken:
        return str(broken)
    except (ConfigError, UserError) as error:
        return f"it refuses: {error}"
    except Exception as error:
        return f"it raised {type(error).__name__}: {error}{_place(subject, error)}"
    return None


def _place(subject: Subject, error: Exception) -> str:
    """Return the line of the component's own file at which it failed, if any."""
    module = sys.modules.get(subject.registry.entry(subject.spec.name).__module__)
    passed = last_line(error, {str(getattr(module, "__file__", None))})
    return f" (at {Path(passed[0]).name}:{passed[1]})" if passed else ""


def all_tried(subjects: Sequence[Subject]) -> list[Outcome]:
    """Return the outcomes of every law for every component."""
    return [outcome for subject in subjects for outcome in tried(subject)]
