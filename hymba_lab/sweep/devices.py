"""What a sweep takes on the card that its scale names: memory a device, GPU-hours a row."""

from dataclasses import dataclass

from rich.box import SIMPLE
from rich.table import Table

from hymba_lab.config import Config
from hymba_lab.cost.cards import USABLE, Card, card
from hymba_lab.cost.flops import BACKWARD
from hymba_lab.cost.memory import DeviceMemory, device_memory
from hymba_lab.sweep.question.scale import Hardware
from hymba_lab.sweep.session import Session


@dataclass(frozen=True)
class DeviceRow:
    """One row of the table on the card: its memory, its rate and the hours of all its runs."""

    label: str
    memory: DeviceMemory
    tokens_per_second: float  # of one device
    hours: float  # of devices, all runs of the row
    fits: bool


def device_rows(session: Session) -> list[DeviceRow]:
    """Return what every row takes; raises `ConfigError` for a card that is not known."""
    hardware, file = session.sweep.hardware, session.sweep.file
    assert hardware is not None
    chosen = card(hardware.card)
    n_runs = file.runs_of(len(session.cells)) / len(session.cells)
    rows = []
    for cell in session.cells:
        training = cell.config.training
        memory = device_memory(cell.config, session.mixture.vocab)
        rate = device_rate(cell.config, cell.costs.flops_per_token, chosen, hardware.mfu)
        hours = n_runs * training.tokens / rate / 3600
        fits = memory.total <= USABLE * chosen.memory
        rows.append(DeviceRow(cell.label, memory, rate, hours, fits))
    return rows


def device_rate(config: Config, forward_flops: float, on: Card, mfu: float) -> float:
    """Return the tokens a second of one device at a share `mfu` of its peak rate.

    A block that is computed again pays for a second forward pass, which mfu does not count.
    """
    peak = on.fp32 if config.training.precision == "fp32" else on.bf16
    passes = 1 + BACKWARD + config.training.recompute
    return mfu * peak / (passes * forward_flops)


def device_table(session: Session, rows: list[DeviceRow]) -> Table:
    """Return the rows as a table for the terminal."""
    hardware = session.sweep.hardware
    assert hardware is not None
    training, n_devices = session.sweep.base.training, session.sweep.base.training.devices
    said = (
        f"on {hardware.card}; {n_devices} device{'s' * (n_devices > 1)} a run, "
        f"{training.precision}, {_at_a_time(session, rows)} at a time; GB: 10^9 bytes"
    )
    table = Table(
        "row", "GB/device", "state", "activations", "tokens/s/device", "GPU-hours", "fits",
        box=SIMPLE, caption=said, caption_justify="left",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row.label,
            f"{row.memory.total / 1e9:.1f}",
            f"{row.memory.state / 1e9:.1f}",
            f"{row.memory.activations / 1e9:.1f}",
            f"{row.tokens_per_second:,.0f}",
            f"{row.hours:,.1f}",
            "yes" if row.fits else "NO",
        )
    return table


def device_notes(session: Session, rows: list[DeviceRow]) -> list[str]:
    """Return where the figures come from, their sum, and what will not fit."""
    hardware = session.sweep.hardware
    assert hardware is not None
    notes = [f"{sum(row.hours for row in rows):,.0f} GPU-hours in all, {_source(hardware)}."]
    large = [row for row in rows if not row.fits]
    if large:
        room = USABLE * card(hardware.card).memory
        notes.append(
            f"Will not fit into {room / 1e9:.0f} GB: {', '.join(row.label for row in large)}; "
            "lower training.micro_rows, or set training.recompute or training.shard."
        )
    return notes


def _at_a_time(session: Session, rows: list[DeviceRow]) -> str:
    found = rows[0].memory.rows
    asked = session.sweep.base.training.micro_rows
    return f"{found} row{'s' * (found > 1)}{' at least' * (asked == 'auto')}"


def _source(hardware: Hardware) -> str:
    where = f"measured: {hardware.measured}" if hardware.measured else "assumed, not measured"
    return f"at {hardware.mfu:.0%} of the peak rate ({where})"
