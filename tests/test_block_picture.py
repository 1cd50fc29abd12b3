"""The README's picture: written by its script, complete, legible, and the same bytes each time."""

import runpy
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from hymba_lab.components.fusion import fusions
from hymba_lab.components.heads import heads
from hymba_lab.components.kv_sharing import kv_sharings
from hymba_lab.components.meta_tokens import meta_tokens
from hymba_lab.components.placement import placements
from hymba_lab.registry import Registry

SCRIPT = Path(__file__).parents[1] / "analysis" / "block_picture.py"
PUBLISHED = SCRIPT.parents[1] / "results" / "block.svg"


def draw(folder: Path) -> tuple[bytes, bytes]:
    """Run the script as a user would; return the SVG and the PNG."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(SCRIPT), str(folder)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return (folder / "block.svg").read_bytes(), (folder / "block.png").read_bytes()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    return draw(tmp_path_factory.mktemp("picture") / "new_folder")


@pytest.mark.slow
def test_both_files_are_the_same_each_time(files: tuple[bytes, bytes], tmp_path: Path) -> None:
    assert files[0].startswith(b"<?xml")
    assert files[1].startswith(b"\x89PNG")
    assert draw(tmp_path) == files


@pytest.mark.parametrize("registry", [fusions, heads, meta_tokens, placements, kv_sharings])
def test_the_svg_names_every_choice(registry: Registry[Any], files: tuple[bytes, bytes]) -> None:
    assert list(registry)
    for name in registry:
        assert f">{name}</text>" in files[0].decode()
        assert f">{name}</text>" in PUBLISHED.read_text(), f"run {SCRIPT.name} again: no {name}"


@pytest.mark.parametrize("name", ["fusion", "heads", "meta_tokens", "placement", "kv_sharing"])
def test_the_svg_names_the_file_of_every_axis(name: str, files: tuple[bytes, bytes]) -> None:
    path = f"hymba_lab/components/{name}.py"
    assert (SCRIPT.parents[1] / path).is_file()
    assert f">{path}</text>" in files[0].decode()


def test_no_two_texts_overlap_and_none_is_clipped() -> None:
    figure = runpy.run_path(str(SCRIPT))["picture"]()
    canvas: Any = FigureCanvasAgg(figure)  # its renderer is not typed
    renderer = canvas.get_renderer()
    figure.draw(renderer)
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    extents = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    assert len(extents) > 40
    for label, extent in extents:
        assert figure.bbox.contains(extent.x0, extent.y0), label
        assert figure.bbox.contains(extent.x1, extent.y1), label
    for (label, extent), (other_label, other) in combinations(extents, 2):
        assert not extent.overlaps(other), (label, other_label)
