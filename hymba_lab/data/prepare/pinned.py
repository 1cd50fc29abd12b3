"""Which commit of a hub's data set a tokenization reads: the one that it began with."""

import json
from pathlib import Path

from hymba_lab.atomic import facts_of, write_atomically
from hymba_lab.data.index import INDEX
from hymba_lab.data.prepare.hub import commit_of
from hymba_lab.data.prepare.schema import TokenizeConfig
from hymba_lab.data.prepare.unit import Place
from hymba_lab.errors import DataError

Pin = dict[str, str | None]
"""The data set, the revision that was asked for, and its commit at that time."""


def pinned(config: TokenizeConfig) -> tuple[TokenizeConfig, Pin | None]:
    """Return a configuration that names a commit, and what is to be noted of it.

    What was begun or finished here decides; the hub is asked only at the beginning. Text that is
    no hub's, and a folder that was finished without a note, stay as they are.
    """
    hub, place = config.hub, Place(Path(config.out))
    if hub is None:
        return config, None
    pin: Pin = {"dataset": hub.dataset, "revision": hub.revision}
    finished = place.out / INDEX
    before = facts_of(finished).get("hub") if finished.exists() else facts_of(place.pin)
    if isinstance(before, dict) and {**before, "commit": None} == {**pin, "commit": None}:
        commit = before.get("commit")
    else:
        commit = None if finished.exists() else commit_of(hub)
    if commit is None:
        return config, None
    own = hub.model_copy(update={"revision": commit})
    return config.model_copy(update={"hub": own}), {**pin, "commit": commit}


def note(place: Place, pin: Pin) -> None:
    """Keep what is read, before anything is made of it; refuse to go on with another commit."""
    if not place.pin.exists():
        write_atomically(place.pin, json.dumps(pin))
    if facts_of(place.pin) != pin:
        raise DataError(
            f"{place.work}: begun with another commit of {pin['dataset']}; run the same command "
            f"again to go on with that one, or delete the folder {place.out} to start over"
        )
