"""Cards that a plan can be made for, from their makers' data sheets (dense rates, no sparsity)."""

from dataclasses import dataclass

from hymba_lab.errors import ConfigError, suggest


@dataclass(frozen=True)
class Card:
    """Memory [bytes] and rates of matrix products [FLOP/s]: bfloat16, and float32 as torch makes
    them unless told otherwise, without TF32."""

    memory: float
    bf16: float
    fp32: float
    torch_name: str  # a part of what torch.cuda.get_device_name says


CARDS = {
    "A100-40GB": Card(40e9, 312e12, 19.5e12, "A100-SXM4-40GB"),
    "A100-80GB": Card(80e9, 312e12, 19.5e12, "A100-SXM4-80GB"),
    "H100-80GB": Card(80e9, 989e12, 67e12, "H100 80GB"),
    "H200-141GB": Card(141e9, 989e12, 67e12, "H200"),
    "L40S-48GB": Card(48e9, 362e12, 91.6e12, "L40S"),
    "RTX4090-24GB": Card(24e9, 165e12, 83e12, "RTX 4090"),
}

USABLE = 0.92
"""Share of a card's memory that a plan may fill: the driver, torch and fragments take the rest."""


def card(name: str) -> Card:
    """Return a card by its name; raises `ConfigError` that names the known ones."""
    if name not in CARDS:
        known = ", ".join(CARDS)
        raise ConfigError(f"no card {name!r}{suggest(name, CARDS)}; known: {known}")
    return CARDS[name]


def peak_flops(device_name: str, precision: str) -> float | None:
    """Return the rate of matrix products of a device by torch's name for it, None if not known."""
    if any(word in device_name for word in ("Laptop", "NVL")):  # slower ones of the same name
        return None
    for one in CARDS.values():
        if one.torch_name in device_name:
            return one.fp32 if precision == "fp32" else one.bf16
    return None
