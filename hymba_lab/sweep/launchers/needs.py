"""What one trial asks of the machine that runs it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Needs:
    """Processors, memory [GB], time [minutes]; None = what the cluster gives unasked."""

    devices: int = 1  # processes that train the model, one on each GPU where there are any
    gpus: int = 0
    cpus: int | None = None
    memory_gb: float | None = None
    minutes: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None
    setup: tuple[str, ...] = ()
    trials_per_gpu: int = 1


NOTHING_ASKED = Needs()
