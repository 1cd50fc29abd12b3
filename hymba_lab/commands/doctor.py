"""`python -m hymba_lab.doctor`: what each operation runs on here, why, and what to do."""

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hymba_lab import cli, flags

OPTIONAL = ("mamba-ssm", "causal-conv1d", "flash-attn", "mambapy", "transformers")


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="hymba-lab doctor",
        description="Show what every operation runs on here and how to make it faster.",
    )
    flags.add(parser, "json")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was found; returns 0, or 2 with a message where a forced choice cannot run."""
    options = arguments().parse_args(argv)
    found = examine()
    print(json.dumps(found, indent=1) if options.json else "\n".join(lines(found)))
    return 0


def examine() -> dict[str, Any]:
    """Return the machine, the operations with reasons, threads, packages and what to do."""
    import torch

    from hymba_lab.ops import backends
    from hymba_lab.ops.kernels import variant
    from hymba_lab.runs.provenance import hardware, n_cores, versions

    found: dict[str, Any] = {
        "machine": {
            "hardware": hardware(),
            "usable_cores": n_cores(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "kernel_build": variant(),
            "bf16_instructions": _bf16(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "compiler": _compiler(),
            "mlflow": _place("mlflow"),
        },
        "operations": backends(),
        "threads": {
            "torch": torch.get_num_threads(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY"),
        },
        "packages": versions() | {name: _version(name) for name in OPTIONAL},
    }
    found["advice"] = advice(found)
    return found


def advice(found: dict[str, Any]) -> list[str]:
    """Return what would make training faster here, the largest gain first."""
    machine, threads = found["machine"], found["threads"]
    told = []
    scan = found["operations"]["selective_scan"]
    if machine["cuda"]:
        if scan["chosen"] == "torch" and "triton" in scan["unavailable"]:  # else it was asked for
            told.append(f"the GPU has no fast scan: {scan['unavailable']['triton']}")
    elif "cpp" in scan["unavailable"]:
        told.append(
            f"the scan runs several times slower than it could: {scan['unavailable']['cpp']}"
        )
        if machine["compiler"] is None:
            told.append("there is no C++ compiler here: `apt-get install g++`, or set CXX to one")
    if threads["torch"] > machine["usable_cores"]:
        told.append(
            f"torch has {threads['torch']} threads for {machine['usable_cores']} cores: set "
            f"OMP_NUM_THREADS={machine['usable_cores']}"
        )
    if threads["OMP_WAIT_POLICY"] != "passive":
        told.append(
            "scripts of your own that share cores should set OMP_WAIT_POLICY=passive before torch "
            "is imported; train and sweep do"
        )
    if not machine["bf16_instructions"] and not machine["cuda"]:
        told.append(
            "this processor has no bf16 instructions: train in float32, bf16 is slower here"
        )
    if "%" in (machine["mlflow"] or ""):
        told.append(
            f"`mlflow ui` cannot open its tables from {machine['mlflow']}: it stumbles over the % "
            "in its own path. Sweeps can; to look at them, install mlflow into another folder"
        )
    return told


def lines(found: dict[str, Any]) -> list[str]:
    """Return the findings as text."""
    machine, threads = found["machine"], found["threads"]
    bf16 = "with" if machine["bf16_instructions"] else "without"
    text = [
        f"machine     {machine['hardware']}; {machine['usable_cores']} cores usable",
        f"            {machine['instructions']}, {bf16} bf16; GPU: {machine['cuda'] or 'none'}; "
        f"C++ compiler: {machine['compiler'] or 'none'}",
        "threads     " + ", ".join(f"{name} {value or '-'}" for name, value in threads.items()),
        f"packages    {_joined(found['packages'])}",
    ]
    for status in found["operations"].values():
        meanings = status["meanings"]
        build = f" (build {machine['kernel_build']})" if status["chosen"] == "cpp" else ""
        text += ["", f"{status['title']}: {meanings[status['chosen']]}{build}"]
        text += [f"  not {meanings[other]}: {why}" for other, why in status["unavailable"].items()]
    if found["advice"]:
        text += ["", "to do", *(f"  - {one}" for one in found["advice"])]
    return text


def _joined(packages: dict[str, str | None]) -> str:
    there = ", ".join(f"{name} {number}" for name, number in packages.items() if number)
    absent = ", ".join(name for name, number in packages.items() if not number)
    return f"{there}; not installed: {absent}" if absent else there


def _bf16() -> bool:
    """Whether the processor multiplies bf16 by itself."""
    import torch

    able = torch.cpu.get_capabilities()
    return any(bool(able.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _compiler() -> str | None:
    """The compiler that an install of this package would use."""
    named = os.environ.get("CXX")
    return next(
        (
            path
            for name in (named, "c++", "g++", "clang++")
            if name and (path := shutil.which(name))
        ),
        None,
    )


def _place(package: str) -> str | None:
    found = find_spec(package)
    return None if found is None or found.origin is None else str(Path(found.origin).parent)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    cli.run(main)
