"""What every command line shares: errors without a traceback, and packages that are called."""

import argparse
import errno
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hymba_lab import flags
from hymba_lab.atomic import cache_folder, have_a_home
from hymba_lab.errors import DataError, TrialFailed, UserError, plain

if TYPE_CHECKING:
    from rich.console import Console


def parser(command: str, about: str, file: str) -> argparse.ArgumentParser:
    """Return a parser for `hymba-lab <command> FILE`; `file` says what the file is."""
    # whole names: the words of a command are handed on to others that leave some of them out
    made = argparse.ArgumentParser(
        prog=f"hymba-lab {command}", description=about, allow_abbrev=False
    )
    made.add_argument("file", type=Path, metavar="FILE.yaml", help=file)
    flags.add(made, "set", "root", "tracking-uri")
    return made


def span(seconds: float) -> str:
    """Return a time as people say it: 45 s, 12 min, 3 h 05 min, 2 d 4 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    if hours < 1:
        return f"{minutes} min"
    days, hours = divmod(hours, 24)
    return f"{hours} h {minutes:02} min" if not days else f"{days} d {hours} h"


def plain_console(**options: Any) -> "Console":
    """Return a console that reads no style or picture out of texts such as `gate [/b]` or `:x:`.

    `options` are those of `rich.console.Console`.
    """
    from rich.console import Console

    return Console(markup=False, emoji=False, **options)


def keep_matplotlib_here() -> None:
    """Let matplotlib, where a command draws, write its font list into the cache folder, too.

    It would make folders in HOME, and read a style from there that changes figures. Figures are
    written, never shown.
    """
    os.environ.setdefault("MPLBACKEND", "agg")
    # what it says of its caches, and of a folder that it takes instead, is nothing to act on
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with suppress(DataError):  # no place: it takes a temporary folder
        os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))


def _plugins_place(error: BaseException) -> str | None:
    """Return the line of a plugin that an error came from; None where it is no plugin's."""
    loaded = sys.modules.get("hymba_lab.config.plugins")  # if not, no plugin has run
    return loaded.place_of(error) if loaded else None


_TO_DO = {
    errno.EACCES: "give one that you may read and write",
    errno.EPERM: "give one that you may read and write",
    errno.EROFS: "give one that you may write",
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOENT: "check the name",
    errno.ENOTDIR: "check the name",
    errno.ELOOP: "mend the link",
    errno.EMFILE: "allow more open files, e.g. ulimit -n 4096",
}


def refused_by_the_system(error: OSError) -> str:
    """Return what the system said of a file that no command has words of its own for."""
    name = os.fsdecode(error.filename) if not isinstance(error.filename, int) else "a file"
    name = name if len(name) <= 300 else f"{name[:300]}..."
    advice = _TO_DO.get(error.errno or 0, "check it, and the disk that it is on")
    return f"{name}: {error.strerror or error}; {advice}."


def callable_package(name: str, module: str, function: str) -> None:
    """Let a package be called: `hymba_lab.sweep(...)` is `function` of `module`, imported then.

    A package's name is taken by the package itself once anything in it was imported, so a function
    of the same name beside it would be there on some days only.
    """

    class Called(ModuleType):
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            return getattr(import_module(module), function)(*arguments, **options)

    sys.modules[name].__class__ = Called


def _require_names_of_packages() -> None:
    """Refuse a locale in which the names of the environment's own files cannot be told.

    PyTorch's import would end with a traceback.
    """
    try:
        sys.prefix.encode()
    except UnicodeEncodeError:
        place = os.fsencode(sys.prefix).decode(errors="replace")
        raise UserError(
            f"Python's packages stand in {place}, and this locale has no such letters; set "
            "PYTHONUTF8=1."
        ) from None


def run(main: Callable[[Sequence[str] | None], int]) -> None:
    """Exit with main()'s code; 2 and one message for what the user can mend, 130 for Ctrl-C."""
    have_a_home()
    keep_matplotlib_here()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without UTF-8 shows ? for the rest
            stream.reconfigure(errors="replace")
    try:
        _require_names_of_packages()
        code = main(None)
    except UserError as error:
        print(f"error: {plain(str(error))}", file=sys.stderr)
        code = 2
    except TrialFailed as error:
        print(f"error: the run failed: {plain(str(error))}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends what is left, silently
        print("stopped; the same command goes on from here.", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader of our output left, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (Exception, SystemExit) as error:
        if (place := _plugins_place(error)) is not None:
            print(f"error: {place}: {type(error).__name__}: {error}", file=sys.stderr)
        elif isinstance(error, OSError) and error.filename is not None:
            print(f"error: {refused_by_the_system(error)}", file=sys.stderr)
        else:
            raise
        code = 2
    sys.exit(code)
