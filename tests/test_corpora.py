"""Several corpora of one vocabulary: what each step reads, and what never changes."""

import json
from itertools import combinations, pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hymba_lab.data.corpora import Corpora
from hymba_lab.data.index import Shard, TokenIndex, write_index
from hymba_lab.data.shard_file import ShardWriter
from hymba_lab.data.source import Mixture, build_sources, datasets
from hymba_lab.errors import ConfigError, DataError
from hymba_lab.model import LanguageModel
from hymba_lab.training import validation
from hymba_lab.training.parts import TrainParts

T, END, VOCAB = 8, 0, 5000


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYMBA_LAB_CACHE", str(tmp_path / "cache"))


def write(folder: Path, train: list[list[int]], val: list[list[int]], *, tokenizer="t", n_files=1):
    """Write a folder as `hymba-lab tokenize` would, from ids instead of texts."""
    folder.mkdir(parents=True)
    shards = []
    for part, documents in (("train", train), ("val", val)):
        for number in range(n_files if part == "train" else 1):
            n = n_files if part == "train" else 1
            writer = ShardWriter(
                folder / f"{part}-{number:05d}.bin", vocab=VOCAB, end_of_text=END,
                tokenizer=tokenizer,
            )  # fmt: skip
            writer.add(documents[number::n], n_bytes=3 * sum(map(len, documents[number::n])))
            shards.append(Shard(writer.path.name, part, writer.close()))
    index = TokenIndex(folder, folder.name, shards, entropy=2.0)
    write_index(index, {}, draft=folder / "index.json")
    return str(folder)


def counting(first: int, n: int, length: int = 9) -> list[list[int]]:
    """Documents of ids that all differ: an id says where it stands."""
    return [list(range(s, min(s + length, first + n))) for s in range(first, first + n, length)]


@pytest.fixture
def folders(tmp_path):
    return {
        "a": write(tmp_path / "a", counting(1, 900), counting(901, 99), n_files=3),
        "b": write(tmp_path / "b", counting(1001, 2000), counting(3001, 99)),
    }


def source(folders, *, weights=(1.0, 1.0), seq_len=T, rows=6, **options) -> Corpora:
    corpora = {
        label: {"folder": folder, "weight": weight}
        for (label, folder), weight in zip(folders.items(), weights, strict=False)
    }
    data = {"name": "corpora", "rows": rows, "corpora": corpora, **options}
    spec = datasets._specs["corpora"].model_validate_json(json.dumps(data))
    return datasets.build(spec, seq_len)


def steps(source, seed, numbers):
    return [source.train_batch(seed, step) for step in numbers]


class TestOrder:
    def test_an_epoch_reads_every_window_once_and_then_again(self, folders):
        made = source({"a": folders["a"]}, rows=5)
        n_windows = (len(made.train[0]) - 1) // T
        targets = torch.cat([b.targets for b in steps(made, 3, range(-(-2 * n_windows // 5)))])
        for epoch in (targets[:n_windows], targets[n_windows : 2 * n_windows]):
            ids = epoch[epoch != END]
            assert len(ids.unique()) == len(ids) > 0.98 * 900  # no token twice, all but a tail
        assert not torch.equal(targets[:n_windows], targets[n_windows : 2 * n_windows])

    def test_a_step_needs_no_step_before_it(self, folders):
        one, two = source(folders), source(folders)
        for step in (41, 3, 17, 0):
            one.train_batch(0, step)
        assert torch.equal(one.train_batch(0, 5).tokens, two.train_batch(0, 5).tokens)
        assert not torch.equal(one.train_batch(1, 5).tokens, two.train_batch(0, 5).tokens)

    @pytest.mark.parametrize("replacement", [False, True])
    def test_steps_seeds_and_corpora_are_read_apart(self, folders, replacement):
        """Two corpora of one text: in an order that forgets the label both read the same rows."""
        twice = {"a": folders["b"], "b": folders["b"]}
        made = source(twice, replacement=replacement, rows=200)
        batches = [made.train_batch(0, 0), made.train_batch(0, 1), made.train_batch(1, 0)]
        rows = [batch.tokens[batch.group == group] for batch in batches for group in (0, 1)]
        for one, other in combinations(rows, 2):
            assert (one == other).all(dim=1).float().mean() < 0.1

    def test_windows_are_runs_of_the_text(self, folders):
        for replacement in (False, True):
            batch = source(folders, replacement=replacement, rows=40).train_batch(0, 0)
            assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
            for row in batch.tokens.tolist():
                inside = [(x, y) for x, y in pairwise(row) if END not in (x, y)]
                assert all(y == x + 1 for x, y in inside)

    def test_with_replacement_any_place_comes(self, folders):
        made = source({"a": folders["a"]}, replacement=True, rows=4000)
        starts = made.train_batch(0, 0).tokens[:, 0]
        assert len(starts.unique()) > 0.9 * 900
        assert len(starts.unique()) < len(starts)

    def test_group_names_the_corpus(self, folders):
        batch = source(folders, weights=(1.0, 2.0), rows=9).train_batch(0, 0)
        of = torch.where(batch.tokens.max(dim=1).values > 1000, 1, 0)
        assert torch.equal(of, batch.group) and batch.group.bincount().tolist() == [3, 6]


class TestWeights:
    def shares(self, made, first, last):
        groups = torch.cat([made.train_batch(0, step).group for step in range(first, last)])
        return groups.bincount(minlength=2) / len(groups)

    @pytest.mark.parametrize("weights", [(0.7, 0.3), (1.0, 0.0), (0.01, 0.99), (3.0, 7.0)])
    def test_shares_of_rows_are_the_weights(self, folders, weights):
        made = source(folders, weights=weights)
        expected = torch.tensor(weights) / sum(weights)
        assert (self.shares(made, 0, 60) - expected).abs().max() < 0.01

    def test_annealed_weights_hit_their_shares(self, folders):
        anneal = [
            {"start": 0.5, "weights": {"b": 1.0, "a": 1.0}},
            {"start": 0.8, "weights": {"b": 2}},
        ]
        made = source(folders, weights=(0.9, 0.1), anneal=anneal, rows=10)
        made.begin(200)
        for first, last, share in ((0, 100, 0.1), (100, 160, 0.5), (160, 200, 1.0)):
            assert abs(self.shares(made, first, last)[1] - share) < 0.01

    def test_no_token_twice_over_a_change_of_weights(self, folders):
        made = source(folders, weights=(1.0, 1.0), anneal=[{"start": 0.5, "weights": {"b": 1}}])
        made.begin(40)  # 20 * 3 + 20 * 6 = 180 of the 277 windows of b
        targets = torch.cat([b.targets[b.group == 1] for b in steps(made, 0, range(40))])
        ids = targets[targets != END]
        assert len(ids.unique()) == len(ids)

    def test_repeats(self, folders):
        made = source(folders, weights=(2.0, 1.0))
        repeats = made.repeats(100)
        n_windows = [(len(part) - 1) // T for part in made.train]
        assert repeats == {"a": 400 / n_windows[0], "b": 200 / n_windows[1]}


class TestFacts:
    def test_fingerprint_is_that_of_contents_and_validation(self, folders, tmp_path):
        base = source(folders)
        same = [source(folders, rows=9), source(folders, weights=(1.0, 5.0)),
                source(folders, replacement=True)]  # fmt: skip
        assert {made.fingerprint for made in same} == {base.fingerprint}
        (tmp_path / "a").rename(tmp_path / "moved")
        assert source({**folders, "a": str(tmp_path / "moved")}).fingerprint == base.fingerprint
        moved = {**folders, "a": str(tmp_path / "moved")}
        others = [source({"b": folders["b"]}), source(moved, n_val=3), source(moved, seq_len=4),
                  source(moved, borders=True)]  # fmt: skip
        assert len({made.fingerprint for made in [base, *others]}) == 5

    def test_validation_is_per_corpus_spread_and_disjoint(self, folders):
        made = source(folders, n_val=5, rows=4)
        batches = list(made.val_batches())
        groups = torch.cat([b.group for b in batches])
        assert groups.tolist() == [0] * 5 + [1] * 5
        targets = torch.cat([b.targets for b in batches])
        assert (targets.max(dim=1).values < 1000).tolist() == [True] * 5 + [False] * 5
        ids = targets[targets != END]
        assert len(ids.unique()) == len(ids)

    def test_bytes_per_token_of_each_corpus(self, folders):
        made = source(folders)
        n_documents, n_ids = 11, 99
        expected = (3 * n_ids + n_documents) / (n_ids + n_documents)
        assert made.group_bytes_per_token == (expected, expected)
        assert made.bytes_per_token == pytest.approx(expected)
        assert made.reference == {"loss": 2.0}

    def test_sources_of_one_tokenizer_share_their_ids(self, folders, tmp_path):
        recall = datasets.build(datasets.spec("mqar", rows=4, vocab=64, n_pairs=[2]), 32)
        one, two = (source({label: folders[label]}, seq_len=32) for label in "ab")
        other = source(
            {"c": write(tmp_path / "c", counting(1, 900), counting(1, 99), tokenizer="u")},
            seq_len=32,
        )
        mixture = Mixture({"one": one, "recall": recall, "two": two, "other": other})
        assert mixture.offsets == {"one": 0, "recall": VOCAB, "two": 0, "other": VOCAB + 64}
        assert mixture.vocab == 2 * VOCAB + 64
        batch = mixture.train_batch(0, 0)
        part = batch.tokens[mixture.parts["two"]]
        assert torch.equal(part, two.train_batch(0, 0).tokens)

    def test_borders_are_the_ends_of_texts(self, folders):
        made = source(folders, borders=True)
        batch = made.train_batch(0, 0)
        assert torch.equal(batch.starts, batch.tokens == END) and batch.starts.any()
        assert source(folders).train_batch(0, 0).starts is None
        recall = datasets.build(datasets.spec("mqar", rows=4, vocab=64, n_pairs=[2]), T)
        mixed = Mixture({"text": made, "recall": recall}).train_batch(0, 0)
        assert torch.equal(mixed.starts[:6], batch.starts) and not mixed.starts[6:].any()


class TestBorders:
    """Rows that lose their borders on the way to the model see other documents, and no one says."""

    @pytest.fixture
    def mixture(self, folders):
        recall = datasets.build(datasets.spec("mqar", rows=3, vocab=64, n_pairs=[2]), T)
        return Mixture({"text": source(folders, borders=True, rows=5), "recall": recall})

    @pytest.mark.parametrize("rank", [0, 1])
    def test_parts_of_a_step_have_those_of_their_rows(self, mixture, rank):
        """A rank has every other row of each source, and as many parts as the other rank."""
        batch = mixture.train_batch(3, 4)
        steps = TrainParts(mixture, 3, range(4, 5), rank=rank, n_ranks=2, micro_rows=2)
        parts, _ = next(iter(steps))
        rows = [[[0, 2], [4, 5], [7]], [[1], [3], [6]]][rank]
        assert [part.scored.tokens.tolist() for part in parts] == [
            batch.tokens[each].tolist() for each in rows
        ]
        assert [part.scored.starts.tolist() for part in parts] == [
            batch.starts[each].tolist() for each in rows
        ]
        assert any(part.scored.starts.any() for part in parts)

    @pytest.mark.parametrize("rank", [0, 1])
    def test_parts_of_a_validation_have_those_of_their_rows(self, mixture, rank, monkeypatch):
        monkeypatch.setattr(validation, "world", lambda: SimpleNamespace(rank=rank, n_ranks=2))
        _, batch = next(iter(mixture.val_batches()))
        parts = list(validation._of_this_rank(batch, 2))
        rows = [[[0, 2], [4]], [[1, 3], [0]]][rank]  # row 0 once more, for one that waits
        assert [part.tokens.tolist() for part in parts] == [
            batch.tokens[each].tolist() for each in rows
        ]
        assert [part.starts.tolist() for part in parts] == [
            batch.starts[each].tolist() for each in rows
        ]
        assert any(part.starts.any() for part in parts)


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"weights": (0.0, 0.0)}, "corpora: all weights are 0"),
            (
                {"anneal": [{"start": 0.5, "weights": {"c": 1}}]},
                r"anneal\[0\].weights: no corpus 'c'",
            ),
            (
                {"anneal": [{"start": 0.5, "weights": {"a": 0}}]},
                r"anneal\[0\].weights: all weights",
            ),
            (
                {"anneal": [{"start": s, "weights": {"a": 1}} for s in (0.5, 0.4)]},
                r"starts \[0.5, 0.4\] do not rise",
            ),
        ],
    )
    def test_weights(self, folders, options, message):
        with pytest.raises(ConfigError, match=message):
            source(folders, **options)

    def test_two_tokenizers(self, folders, tmp_path):
        other = write(tmp_path / "c", counting(1, 900), counting(1, 99), tokenizer="u")
        with pytest.raises(ConfigError, match=r"c \(.*\) has another tokenizer than a"):
            source({"a": folders["a"], "c": other})
        (tmp_path / "x.json").write_text("{}")
        with pytest.raises(ConfigError, match=r"a \(.*\) was not made with .*x\.json"):
            source(folders, tokenizer_file=str(tmp_path / "x.json"))
        with pytest.raises(ConfigError, match=r"none\.json: cannot be read"):
            source(folders, tokenizer_file=str(tmp_path / "none.json"))

    def test_too_short(self, folders):
        with pytest.raises(DataError, match=r"a: the validation part has 110 tokens, one window"):
            source(folders, seq_len=110)

    def test_no_folder(self, tmp_path):
        with pytest.raises(DataError, match="is no folder; name a folder that hymba-lab tokenize"):
            source({"a": str(tmp_path / "none")})

    def test_an_id_that_came_in_use(self, folders):
        made = source(folders)
        with open(Path(folders["b"]) / "train-00000.bin", "r+b") as file:
            file.seek(4096)
            file.write(np.full(2200, VOCAB, "<u2").tobytes())
        with pytest.raises(DataError, match="an id of 5000 where 5000 are known"):
            made.train_batch(0, 0)


class TestTraining:
    """A run over two corpora with an anneal, borders and one vocabulary, to the end."""

    @pytest.fixture
    def file(self, tmp_path, folders):
        file = tmp_path / "x.yaml"
        base = (Path(__file__).parents[1] / "experiments" / "nano.yaml").read_text()
        head, _, tail = base.partition("data:")
        data = (
            "data:\n  text:\n    name: corpora\n    rows: 4\n    borders: true\n    n_val: 3\n"
            "    corpora: {a: {folder: a, weight: 3}, b: {folder: b}}\n"
            "    anneal: [{start: 0.5, weights: {b: 1}}]\n\n"
        )
        tail = "optimizer:" + tail.partition("optimizer:")[2]
        file.write_text(head + data + tail)
        return file

    OVERRIDES = (
        "training.tokens=400", "training.seq_len=10", "training.val_every=5", "model.d_model=16",
        "model.n_layers=1", "model.mlp.d_ff=16",
        "model.heads={name: hybrid, n_heads: 2, n_kv_heads: 1, d_head: 8, expand: 2}",
    )  # fmt: skip

    def test_validation_is_per_corpus_in_bits_per_byte(self, file, tmp_path):
        from hymba_lab.config import load_config
        from hymba_lab.training.fit import fit
        from hymba_lab.training.validation import metric_names

        config = load_config(file, self.OVERRIDES)
        mixture = build_sources(config.data, 10)
        made = fit(config, seed=0, folder=tmp_path / "run", mixture=mixture)
        assert made.n_steps == 10
        assert mixture.train_batch(0, 4).group.tolist() == [0, 0, 0, 1]
        assert mixture.train_batch(0, 5).group.tolist() == [1, 1, 1, 1]  # fit said how long
        assert set(made.metrics) == set(metric_names(mixture))
        m, source = made.metrics, mixture.sources["text"]
        assert m["val/text_loss"] == pytest.approx(
            (m["val/text_loss/a"] + m["val/text_loss/b"]) / 2
        )
        for corpus, n_bytes in zip("ab", source.group_bytes_per_token, strict=True):
            bits = m[f"val/text_loss/{corpus}"] / np.log(2) / n_bytes
            assert m[f"val/text_bits_per_byte/{corpus}"] == pytest.approx(bits)

    def test_the_model_sees_the_borders_of_every_row(self, file, tmp_path, monkeypatch):
        from hymba_lab.config import load_config
        from hymba_lab.training.fit import fit

        seen, features = {True: [], False: []}, LanguageModel.features

        def spy(model, tokens, *, starts=None):
            seen[model.training].append((tokens, starts))
            return features(model, tokens, starts=starts)

        monkeypatch.setattr(LanguageModel, "features", spy)
        fit(load_config(file, self.OVERRIDES), seed=0, folder=tmp_path / "run")
        for calls in seen.values():
            assert len(calls) > 3
            assert all(torch.equal(starts, tokens == END) for tokens, starts in calls)

    def test_plan_says_how_often_each_corpus_is_read(self, file, tmp_path, capsys):
        from hymba_lab.sweep.__main__ import main

        sweep = tmp_path / "s.yaml"
        sweep.write_text(
            "question: does it?\nbase: x.yaml\nmetric: {name: val/text_loss, goal: minimize}\n"
            "seeds: [0, 1, 2]\n"
            "axes: {meta: {none: {model.meta_tokens: {name: none}}, two: {model.meta_tokens: "
            "{name: learned, n_meta: 2}}}}\n"
        )
        sets = [part for text in self.OVERRIDES for part in ("--set", text)]
        assert main([str(sweep), "--plan", "--root", str(tmp_path), *sets]) == 0
        said = " ".join(capsys.readouterr().out.split())
        # 5 steps of 3 rows, of 99 windows; 5 of 1 and 5 of 4, of 222
        assert "Times that a run reads each corpus of data.text: a 0.152, b 0.113." in said
