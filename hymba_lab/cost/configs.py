"""The configurations whose costs are asked for, and the vocabulary that the data gives them."""

from collections.abc import Sequence
from pathlib import Path

from hymba_lab.config import Config, load_config
from hymba_lab.config.shipped import shipped
from hymba_lab.cost.peers import read_peers
from hymba_lab.data.source import build_sources


def load_configs(files: Sequence[Path], overrides: list[str], peers: Path | None) -> list[Config]:
    """Return the experiments of `files`, then the peers whose shape is whole."""
    configs = [load_config(shipped(path, "experiments"), overrides) for path in files]
    if peers:
        configs += [peer.config for peer in read_peers(peers) if peer.config]
    return configs


def vocab_of(config: Config) -> int:
    """Return the number of token ids: the model's, or where it leaves that open the data's."""
    if config.model.vocab:
        return config.model.vocab
    return build_sources(config.data, config.training.seq_len).vocab
