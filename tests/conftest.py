"""What the tests share: a tiny experiment, and one cache for the standard library's text."""

import atexit
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch

from hymba_lab import cli
from hymba_lab.atomic import have_a_home
from hymba_lab.ops import kernels

ROOT = Path(__file__).parents[1]
Write = Callable[[str, str], Path]

if not os.access(have_a_home(), os.W_OK):  # processes of xdist inherit it
    os.environ["HOME"] = tempfile.mkdtemp(prefix="home")
    atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)
cli.keep_matplotlib_here()  # in the user's own cache, before a test names another


def tracked(pattern: str) -> list[Path]:
    """Return the project's own files: a user's beside them prove nothing about what is shipped.

    Where git does not know, as in an archive without a repository, all that is there.
    """
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--", f":(glob){pattern}"],
        capture_output=True, text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    ).stdout  # fmt: skip
    known = sorted(ROOT / name for name in listed.split("\0") if name)
    return known or sorted(ROOT.glob(pattern))


TINY = """\
name: tiny
scale: tiny
model:
  d_model: 16
  n_layers: 2
  heads: {name: hybrid, n_heads: 2, n_kv_heads: 1, d_head: 8, expand: 2}
  order: {name: parallel}
  fusion: {name: mean}
  meta_tokens: {name: none}
  placement: {name: all_full}
  kv_sharing: {name: none}
  attention: {name: softmax}
  ssm: {name: mamba1, d_state: 4}
  mlp: {name: swiglu, d_ff: 24}
data:
  recall: {name: mqar, rows: 4, vocab: 16, n_pairs: [1, 2], n_val: 8}
optimizer: {name: adamw, lr: 3.0e-3}
schedule: {name: wsd}
training: {seq_len: 16, tokens: 640, val_every: 5}
"""


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _plugins_stay_in_their_test_file() -> Iterator[None]:
    """What the plugins of one file register is not there for the next one in this process."""
    from hymba_lab.config import plugins

    before, loaded = registered(), dict(plugins._loaded)
    yield
    forget_all_but(before)
    plugins._loaded.clear()
    plugins._loaded.update(loaded)


@pytest.fixture(params=["plain", "v3", "v4", "absent"])
def kernel_build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every build of the kernels that this processor runs, and none, as without a compiler."""
    build, builds = str(request.param), ["plain", "v3", "v4"]
    if build != "absent":
        if builds.index(build) > builds.index(kernels.variant()):
            pytest.skip(f"this processor does not run the {build} build")
        if kernels._missing(build) is not None:
            pytest.skip(f"the {build} build was not made")
    monkeypatch.setattr(kernels, "variant", lambda: build)
    return build


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A ten-step experiment file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """Write a file of the test's folder and return its path."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def registered() -> dict[str, set[str]]:
    """Return which components each axis has at the moment."""
    from hymba_lab.config import all_registries

    return {registry.path: set(registry) for registry in all_registries().values()}


def forget_all_but(before: Mapping[str, set[str]]) -> None:
    """Take away what plugins have registered since `before`."""
    from hymba_lab.config import all_registries

    for registry in all_registries().values():
        for name in set(registry) - before[registry.path]:
            registry.remove(name)


@pytest.fixture
def no_plugin_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test's plugins register is gone after it."""
    from hymba_lab.config import plugins

    before = registered()
    monkeypatch.setattr(plugins, "_loaded", dict(plugins._loaded))
    yield
    forget_all_but(before)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that every user can walk to: pytest closes its own to all but the one who tests."""
    place = Path(tempfile.mkdtemp(prefix="open-"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)
