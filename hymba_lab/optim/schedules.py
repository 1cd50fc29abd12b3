"""Learning-rate schedules by name: built from the number of steps and the peak, `step -> factor`.

The update number `step` (0, 1, ..., n_steps - 1) is made with `factor(step) * peak_lr`. All entries
keep these laws:
- lr_min / peak_lr <= factor <= 1, but for the warmup, which starts below and not at 0: of w warmup
  steps, w = round(warmup * n_steps), step number s takes (s + 1) / w, the last one the full rate;
- where the schedule falls at all, its last step is made with `lr_min` itself;
- steps past the end keep the last factor.
"""

import math
from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from hymba_lab.errors import ConfigError
from hymba_lab.registry import Registry

Schedule = Callable[[int], float]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0)]

schedules: Registry[Schedule] = Registry("schedule")


@schedules.register("wsd")
def wsd(
    n_steps: int,
    peak_lr: float,
    *,
    warmup: Fraction = 0.01,
    decay: Fraction = 0.2,
    lr_min: Rate = 1e-5,
) -> Schedule:
    """Warm up, stay at the peak, decay linearly to `lr_min` over the last steps.

    `warmup` and `decay` are fractions of the steps, `lr_min` is a rate, not a fraction.
    The paper trains with 1 %, 20 % and 1e-5 (section 3); it does not name the shape of the decay,
    which is linear here. Source: MiniCPM, arXiv:2404.06395.
    """
    if warmup + decay > 1:
        raise ConfigError(
            f"warmup {warmup} and decay {decay} are {warmup + decay:g} of the steps together; "
            "make them at most 1."
        )
    floor = _floor(peak_lr, lr_min)
    n_warm = round(warmup * n_steps)
    n_decay = min(round(decay * n_steps), n_steps - n_warm)  # both may be rounded up

    def factor(step: int) -> float:
        left = max(n_steps - 1 - step, 0)  # steps that follow this one
        if left < n_decay:
            return floor + (1 - floor) * left / n_decay
        return _warm(step, n_warm)

    return factor


@schedules.register("cosine")
def cosine(
    n_steps: int, peak_lr: float, *, warmup: Fraction = 0.01, lr_min: Rate = 1e-5
) -> Schedule:
    """Warm up, then half a cosine from the peak to `lr_min`. Source: arXiv:1608.03983."""
    floor = _floor(peak_lr, lr_min)
    n_warm = round(warmup * n_steps)

    def factor(step: int) -> float:
        if step < n_warm:
            return _warm(step, n_warm)
        done = min((step + 1 - n_warm) / (n_steps - n_warm), 1.0) if n_steps > n_warm else 0.0
        return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2

    return factor


@schedules.register("constant")
def constant(n_steps: int, peak_lr: float, *, warmup: Fraction = 0.0) -> Schedule:
    """Warm up and stay at the peak."""
    n_warm = round(warmup * n_steps)
    return lambda step: _warm(step, n_warm)


def _warm(step: int, n_warm: int) -> float:
    return min((step + 1) / max(n_warm, 1), 1.0)


def _floor(peak_lr: float, lr_min: float) -> float:
    if lr_min > peak_lr:
        raise ConfigError(
            f"lr_min {lr_min:g} is above optimizer.lr {peak_lr:g}, the peak it decays from; "
            f"make lr_min at most {peak_lr:g}."
        )
    return lr_min / peak_lr
