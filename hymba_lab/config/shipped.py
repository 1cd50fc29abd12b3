"""Files that come with the package: experiments, sweeps, the paper's tables and claims.

They stand beside the package in a checkout, and inside it (`shipped/`) once it is installed. A file
of the user's own always comes first; a shipped one is named without folder and ending.
"""

from pathlib import Path

from hymba_lab.errors import ConfigError, suggest

PREFIX = "hymba_lab:"  # in `extends:` and `base:`


def shipped_folder(kind: str) -> Path:
    """Return the folder of shipped `experiments`, `sweeps` or `analysis`."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "shipped" / kind
    return installed if installed.is_dir() else package.parent / kind


def shipped(given: str | Path, kind: str) -> Path:
    """Return `given` where it is a file or looks like a path, otherwise the shipped file so named.

    `hymba_lab:NAME`, as `extends:` and `base:` have it, is always the shipped one.

    Raises `ConfigError` for a name without folder and ending that is neither.
    """
    if str(given).startswith(PREFIX):
        return named(str(given).removeprefix(PREFIX), kind)
    path = Path(given)
    if path.exists() or path.suffix or len(path.parts) != 1:
        return path
    return named(str(given), kind)


def own_or_shipped(file: str, kind: str) -> Path:
    """Return `<kind>/<file>` of this folder where it is there, otherwise the shipped one."""
    own = Path(kind, file)
    return own if own.exists() else shipped_folder(kind) / file


def named(name: str, kind: str) -> Path:
    """Return the shipped YAML file of a name; a `ConfigError` says which there are."""
    folder = shipped_folder(kind)
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in names:
        raise ConfigError(
            f"{name}: neither a file nor one of the shipped {kind}" + suggest(name, names)
        )
    return folder / f"{name}.yaml"
