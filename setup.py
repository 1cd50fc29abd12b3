"""Builds the optional C++ kernels (scan, filter, norm, decoding); the rest is in pyproject.toml.

Without a C++17 compiler the install succeeds with a warning, and the scan runs in plain torch.
"""

import platform
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

SOURCES = "hymba_lab/ops/csrc"
KERNELS = (
    "selective_scan",
    "causal_conv",
    "rms_norm",
    "one_token",
    "windowed_attention",
    "pointwise",
)
VARIANTS: dict[str, list[str]] = {"plain": []}  # by the name that kernels.variant() gives
if platform.machine().lower() in ("x86_64", "amd64"):
    VARIANTS |= {"v3": ["-march=x86-64-v3"], "v4": ["-march=x86-64-v4"]}


class BuildKernel(build_ext):  # type: ignore[misc]  # setuptools has no types
    """Builds plain shared libraries for ctypes: no Python symbol inside, no ABI tag in the name."""

    def get_ext_filename(self, fullname: str) -> str:
        """`hymba_lab.ops._scan_v3` -> `hymba_lab/ops/_scan_v3.so`."""
        return fullname.replace(".", "/") + ".so"

    def build_extension(self, ext: Extension) -> None:
        """Compile one variant; a failure is a warning that says what it costs."""
        try:
            super().build_extension(ext)
        except Exception as error:
            self.warn(
                f"{ext.name} was not built ({error}). The selective scan on the CPU will run in "
                "plain torch, several times slower; install g++ or clang with C++17 and reinstall."
            )


class BuildWithShipped(build_py):  # type: ignore[misc]
    """Puts experiments, sweeps and the paper's tables inside the package, as `shipped/`.

    In a checkout they stand beside it, where they are found as well (`config/shipped.py`).
    """

    def run(self) -> None:
        """Copy them after the modules; an editable install needs no copy."""
        super().run()
        if not self.editable_mode:
            for path in shipped_files():
                target = Path(self.build_lib, "hymba_lab", "shipped", path)
                self.mkpath(str(target.parent))
                self.copy_file(str(path), str(target))


def shipped_files() -> list[Path]:
    """Return what a user of an installed package names: YAML, CSV and small data, no notebooks."""
    return sorted(
        path
        for folder in ("experiments", "sweeps", "analysis")
        for kind in ("*.yaml", "*.csv", "*.py", "*.jsonl")
        for path in Path(folder).rglob(kind)
    )


def kernel(variant: str, flags: list[str]) -> Extension:
    """The kernels for one instruction set."""
    return Extension(
        f"hymba_lab.ops._scan_{variant}",
        sources=[f"{SOURCES}/{name}.cpp" for name in KERNELS],
        depends=glob(f"{SOURCES}/*.h"),
        language="c++",
        # never -ffast-math: it folds the rounding trick of exp2 away
        extra_compile_args=[
            *("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
            *("-Wno-psabi", "-pthread", *flags),
        ],
        extra_link_args=["-pthread"],
        optional=True,
    )


setup(
    ext_modules=[kernel(name, flags) for name, flags in VARIANTS.items()],
    cmdclass={"build_ext": BuildKernel, "build_py": BuildWithShipped},
)
