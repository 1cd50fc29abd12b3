"""Text of a hub: one commit of a data set from the first unit to the last."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hymba_lab.atomic import give_datasets_a_home
from hymba_lab.data.prepare.schema import Hub
from hymba_lab.errors import DataError

_COMMIT = re.compile(r"[0-9a-f]{40}")


def opened_hub(hub: Hub) -> Any:
    """Return the streamed data set; raises DataError where it, or its package, is not there."""
    give_datasets_a_home()
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise _no_package(hub) from error
    try:
        return load_dataset(
            hub.dataset,
            hub.config,
            split=hub.split,
            revision=hub.revision,
            data_files=hub.data_files,
            streaming=True,
        )
    except Exception as error:  # of many kinds: no network, no such name, no such split
        raise _unreadable(hub, error) from error


def commit_of(hub: Hub) -> str | None:
    """Return the commit that a data set's revision names now, None for text that is no hub's.

    Raises DataError where the hub does not say.
    """
    give_datasets_a_home()
    if find_spec("datasets") is None:
        raise _no_package(hub)
    if _is_local(hub.dataset):
        return None
    if hub.revision is not None and _COMMIT.fullmatch(hub.revision):
        return hub.revision
    from huggingface_hub import HfApi  # datasets stands on it

    try:
        return HfApi().dataset_info(hub.dataset, revision=hub.revision).sha
    except Exception as error:  # of many kinds, as above
        raise _unreadable(hub, error) from error


def _is_local(dataset: str) -> bool:
    """Whether a name is a folder here, or one of the builders of the package: json, text, ..."""
    builder = f"datasets.packaged_modules.{dataset}"
    return Path(dataset).exists() or (dataset.isidentifier() and find_spec(builder) is not None)


def _no_package(hub: Hub) -> DataError:
    return DataError(
        f"hub: {hub.dataset}: takes the package datasets: pip install 'hymba-lab[corpora]'"
    )


def _unreadable(hub: Hub, error: Exception) -> DataError:
    said = " ".join(str(error).split())[:300]
    return DataError(
        f"hub: {hub.dataset}: cannot be read ({type(error).__name__}: {said}); is there a "
        "network, and are dataset, config, split and revision right?"
    )
