"""A tokenization from start to end, or from where it stopped: units side by side over the cores."""

import glob
import hashlib
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from hymba_lab.atomic import json_of
from hymba_lab.data.cache import recall, remember
from hymba_lab.data.given import given
from hymba_lab.data.index import INDEX, TokenIndex, read_index
from hymba_lab.data.prepare.finish import clear, finish
from hymba_lab.data.prepare.inputs import Unit, cut
from hymba_lab.data.prepare.marks import copies, save_marks
from hymba_lab.data.prepare.pinned import note, pinned
from hymba_lab.data.prepare.schema import TokenizeConfig, contradiction
from hymba_lab.data.prepare.tokenizer import make_tokenizer
from hymba_lab.data.prepare.unit import Place, make_unit
from hymba_lab.data.source import digest
from hymba_lab.errors import DataError
from hymba_lab.processes.calls import Calls, ProcessEnded
from hymba_lab.registry import at

Report = Callable[[str, int, int], None]
"""Called with the stage and how many bytes of how many are done."""


def tokenize(config: TokenizeConfig, *, workers: int, report: Report) -> TokenIndex:
    """Return the index of the tokenization that `config`, with absolute paths, describes.

    What stands in `out` already is not made again: finished units, or the whole. The files depend
    on the text and the configuration alone, to the byte: not on `workers`, nor on how often it was
    stopped. Raises DataError for what cannot be read, and for an `out` that holds something else.
    """
    if wrong := contradiction(config):
        raise DataError(": ".join(wrong))
    settings, place = _settings(config), Place(Path(config.out))
    config, pin = pinned(config)  # as it is from here on; what was asked for is the recipe
    units = cut(config)
    text = [[os.path.basename(piece.path), *piece[1:]] for unit in units for piece in unit]
    recipe = digest(settings, text)
    inputs = _inputs(config, units)
    if (place.out / INDEX).exists():
        with _explained(place):
            return _finished(place, recipe, inputs)
    with _explained(place), _held(place):
        if pin is not None:
            note(place, pin)
        _begin(place, digest(recipe, _seen(inputs)))
        if not place.tokenizer.exists():
            report("tokenizer", 0, 1)
            make_tokenizer(config, units, place.tokenizer)
        given(place.tokenizer, config.tokenizer.end_of_text)
        if config.deduplicate:
            _find_copies(config, units, workers, report)
        jobs = [n for n in range(len(units)) if not place.done(n).exists()]
        tell = _counted("tokens", units, jobs, report)
        _side_by_side([(make_unit, config, units[n], n) for n in jobs], workers, tell)
        facts = {"recipe": recipe, "text": _contents(inputs), **({"hub": pin} if pin else {})}
        made = finish(config, len(units), facts)
        remember(_noted(place), {"files": _seen(inputs)})
        return made


def _settings(config: TokenizeConfig) -> dict[str, Any]:
    """Return what determines the files, but for where they and the text lie."""
    settings = config.model_dump(mode="json", exclude={"out", "paths", "name", "description"})
    if config.tokenizer.file is not None:
        try:
            own = given(Path(config.tokenizer.file), config.tokenizer.end_of_text)
        except DataError as error:
            raise DataError(f"{at(config.tokenizer.file)}{error}") from None
        settings["tokenizer"]["file"] = own.sha256
    return settings


def _inputs(config: TokenizeConfig, units: Sequence[Unit]) -> list[Path]:
    """Return the files of text, each once; those of a hub are known to it alone."""
    listed = config.hub.data_files or [] if config.hub is not None else []
    local = (sorted(glob.glob(name, recursive=True)) for name in listed if "://" not in name)
    named = [piece.path for unit in units for piece in unit if piece.path]
    return [Path(name) for name in dict.fromkeys([*named, *itertools.chain(*local)])]


def _seen(inputs: Sequence[Path]) -> list[list[object]]:
    """Return what the file system says of the text; where that is as it was, so is the text."""
    return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in inputs]


def _contents(inputs: Sequence[Path]) -> str:
    """Return the sha256 (hex) over the files' contents, wherever they lie."""
    return digest("text", [[path.name, _sha256(path)] for path in inputs])


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _noted(place: Place) -> list[object]:
    return ["text seen", str(place.out.absolute())]


def _finished(place: Place, recipe: str, inputs: Sequence[Path]) -> TokenIndex:
    index = read_index(place.out)
    facts = json_of(place.out / INDEX)
    same = facts.get("recipe") == recipe
    seen = {"files": _seen(inputs)}
    if same and "text" in facts and recall(_noted(place)) != seen:
        same = facts["text"] == _contents(inputs)
        if same:
            remember(_noted(place), seen)
    if not same:
        raise DataError(
            f"{place.out}: holds the tokens of other text or other settings; set `out` to another "
            "folder, or delete this one"
        )
    clear(place)
    return index


def _begin(place: Place, begun: str) -> None:
    """Note what is made here; refuse to go on with what something else began."""
    note = place.work / "begun"
    there = [path.name for path in (place.tokenizer, *place.out.glob("*.bin")) if path.exists()]
    if there and not note.exists():
        raise DataError(
            f"{place.out}: holds {min(there)}, and nothing that says what made it; set `out` to "
            "another folder, or delete this one"
        )
    if note.exists() and note.read_text() != begun:
        raise DataError(
            f"{place.work}: begun with other settings, or the text has changed since; delete the "
            f"folder {place.out} to start over, or set `out` to another one"
        )
    draft = note.with_suffix(".partial")
    draft.write_text(begun)
    draft.replace(note)


@contextmanager
def _held(place: Place) -> Iterator[None]:
    """Hold the folder alone, and clear away what a killed process left half written."""
    place.work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(place.work / "lock", timeout=0):
            for draft in [*place.out.glob("*.partial"), *place.work.glob("*.partial*")]:
                draft.unlink(missing_ok=True)
            yield
    except Timeout:
        raise DataError(f"{place.out}: another process makes these tokens; wait for it") from None


@contextmanager
def _explained(place: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{error.filename or place.out}: {error.strerror or error}; make room or mend the "
            "folder, then run the same command again: finished units are not made twice"
        ) from error


def _find_copies(
    config: TokenizeConfig, units: Sequence[Unit], workers: int, report: Report
) -> None:
    place = Place(Path(config.out))
    numbers = range(len(units))
    if all(place.mask(number).exists() for number in numbers):
        return
    jobs = [number for number in numbers if not place.marks(number).exists()]
    tell = _counted("copies", units, jobs, report)
    _side_by_side([(save_marks, units[n], config, place.marks(n)) for n in jobs], workers, tell)
    for number, mask in enumerate(copies([place.marks(number) for number in numbers])):
        draft = place.mask(number).with_suffix(".partial.npy")
        np.save(draft, mask)
        draft.replace(place.mask(number))


def _counted(
    stage: str, units: Sequence[Unit], jobs: Sequence[int], report: Report
) -> Callable[[int], None]:
    """Return what reports the progress when the job of that place in `jobs` has ended."""
    sizes = [max(1, sum(piece.n_bytes for piece in unit)) for unit in units]
    done = [sum(sizes) - sum(sizes[number] for number in jobs)]
    report(stage, done[0], sum(sizes))

    def tell(place: int) -> None:
        done[0] += sizes[jobs[place]]
        report(stage, done[0], sum(sizes))

    return tell


def _side_by_side(
    jobs: Sequence[tuple[Any, ...]], workers: int, tell: Callable[[int], None]
) -> None:
    """Call each job, `(function, *arguments)`, in some process; the first error ends all."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a process per core is enough
    if workers == 1 or len(jobs) < 2:
        for place, (function, *arguments) in enumerate(jobs):
            function(*arguments)
            tell(place)
        return
    calls = Calls(min(workers, len(jobs)), __name__)
    try:
        places = {calls.submit(_in_worker, job): place for place, job in enumerate(jobs)}
        left: set[Future[Any]] = set(places)
        while left:
            ended, left = wait(left, return_when=FIRST_COMPLETED)
            for future in ended:
                _look(future)
                tell(places[future])
    finally:
        calls.stop()


def _look(future: Future[None]) -> None:
    try:
        future.result()
    except ProcessEnded as error:
        raise DataError(
            f"a worker was ended from outside ({error}), perhaps for want of memory; run the same "
            "command again, with fewer --workers: finished units stay"
        ) from None


def _in_worker(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function in a process that leaves with its leader."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    function(*arguments)
