"""Recall tasks: what every row must satisfy, and which distributions it comes from."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from hymba_lab.data.draws import choose, choose_weighted, generator
from hymba_lab.data.source import IGNORED, Mixture, Source, build_sources, datasets
from hymba_lab.errors import ConfigError

T = 64
TASKS = {
    "mqar": {"n_pairs": [1, 2, 4, 8], "vocab": 64},
    "induction": {},
    "selective_copying": {"n_data": [4, 16]},
    "needle": {"depths": [0.0, 0.5, 1.0], "n_distractors": 2},
}


def make(name: str, seq_len: int = T, rows: int = 48, **options: object) -> Source:
    return datasets.build(datasets.spec(name, rows=rows, **{**TASKS[name], **options}), seq_len)


def rows_of(source: Source, seed: int = 0, step: int = 0):
    """One batch as lists: (tokens, targets, group) per row."""
    batch = source.train_batch(seed, step)
    return zip(*(part.tolist() for part in batch[:3]), strict=True)


def validation(source: Source) -> list[list[tuple[list[int], list[int]]]]:
    """The rows of every difficulty, in order."""
    found: dict[int, list[tuple[list[int], list[int]]]] = {}
    for batch in source.val_batches():
        for tokens, targets, group in zip(*(part.tolist() for part in batch[:3]), strict=True):
            found.setdefault(group, []).append((tokens, targets))
    return [found[group] for group in sorted(found)]


def scored(targets: list[int]) -> list[int]:
    return [t for t, target in enumerate(targets) if target != IGNORED]


@pytest.mark.parametrize("name", TASKS)
class TestEveryTask:
    def test_batch_is_as_declared(self, name):
        source = make(name, n_val=20)
        for batch in (source.train_batch(3, 5), *source.val_batches()):
            n_rows = len(batch.group)
            assert batch.tokens.shape == batch.targets.shape == (n_rows, T)
            assert {part.dtype for part in batch[:3]} == {torch.int64}
            assert batch.tokens.min() >= 0 and batch.tokens.max() < source.vocab
            answers = batch.targets[batch.targets != IGNORED]
            assert answers.min() >= 0 and answers.max() < source.vocab
            assert (batch.targets != IGNORED).any(dim=1).all()
        assert len(source.train_batch(0, 0).tokens) == source.rows

    def test_difficulties_have_equal_shares(self, name):
        source = make(name, n_val=20)
        counts = source.train_batch(0, 0).group.bincount(minlength=len(source.groups))
        assert counts.tolist() == [source.rows // len(source.groups)] * len(source.groups)
        val = torch.cat([batch.group for batch in source.val_batches()])
        assert val.bincount().tolist() == [20] * len(source.groups)

    def test_pure_in_seed_and_step(self, name):
        one, two = make(name), make(name)
        two.train_batch(9, 9)  # earlier draws leave no trace
        assert torch.equal(one.train_batch(1, 2).tokens, two.train_batch(1, 2).tokens)
        for seed, step in ((1, 3), (2, 2), (2, 1)):
            assert not torch.equal(one.train_batch(1, 2).tokens, one.train_batch(seed, step).tokens)

    def test_validation_is_fixed_and_not_trained_on(self, name):
        # one hard difficulty: rows with one pair are few enough to come twice by chance
        hard = {"mqar": {"n_pairs": [8]}, "selective_copying": {"n_data": [16]}}.get(name, {})
        source = make(name, val_seed=0, **hard)
        first, again = (torch.cat([b.tokens for b in source.val_batches()]) for _ in range(2))
        assert torch.equal(first, again)
        val = {tuple(row) for row in first.tolist()}
        for seed, step in itertools.product(range(2), range(5)):  # step 0 is validation's number
            train = {tuple(row) for row in source.train_batch(seed, step).tokens.tolist()}
            assert not val & train
        other = torch.cat([b.tokens for b in make(name, val_seed=1, **hard).val_batches()])
        assert not torch.equal(first, other)

    def test_fingerprint_names_the_rows(self, name):
        source = make(name)
        assert source.fingerprint == make(name).fingerprint
        for rows in (48, 96, 480):  # of one fingerprint, so of one validation set
            other = make(name, rows=rows)
            assert source.fingerprint == other.fingerprint
            assert validation(source) == validation(other)
        for other in (make(name, 66), make(name, vocab=100), make(name, val_seed=7)):
            assert source.fingerprint != other.fingerprint

    def test_guessing_reaches_the_reference(self, name):
        """A uniform guess among the tokens that are answers in validation scores the chance."""
        source = make(name)
        targets = torch.cat([batch.targets for batch in source.val_batches()])
        answers = targets[targets != IGNORED]
        shares = answers.bincount().double() / len(answers)
        possible = shares.count_nonzero()
        assert source.reference["accuracy"] == pytest.approx(1 / possible.item())
        assert (
            shares.max() < 3 * source.reference["accuracy"]
        )  # no constant answer does much better

    def test_rows_that_cannot_be_shared_are_refused(self, name):
        groups = len(make(name).groups)
        if groups == 1:
            assert len(make(name, rows=3).train_batch(0, 0).tokens) == 3
            return
        with pytest.raises(ConfigError, match=f"multiple of {groups}"):
            make(name, rows=groups + 1)


@pytest.mark.parametrize("random_fill", [False, True])
def test_mqar_answers_are_the_values_of_the_keys(random_fill):
    source = make("mqar", random_fill=random_fill)
    for tokens, targets, group in rows_of(source):
        n = TASKS["mqar"]["n_pairs"][group]
        keys, values = tokens[0 : 2 * n : 2], tokens[1 : 2 * n : 2]
        assert len(set(keys)) == len(set(values)) == n
        assert all(
            0 < key < source.vocab // 2 <= value for key, value in zip(keys, values, strict=True)
        )
        asked = scored(targets)
        assert len(asked) == n and min(asked) >= 2 * n
        assert sorted(tokens[t] for t in asked) == sorted(keys)
        stored = dict(zip(keys, values, strict=True))
        assert [targets[t] for t in asked] == [stored[tokens[t]] for t in asked]
        fill = [tokens[t] for t in range(2 * n, T) if t not in asked]
        assert not set(fill) & set(keys)
        assert (set(fill) == {0}) is not random_fill


@pytest.mark.parametrize("power", [0.01, 1.0])
def test_mqar_gaps_follow_the_power_law(power):
    source = make("mqar", rows=8000, n_pairs=[4], power=power)
    batch = source.train_batch(0, 0)
    first_key = batch.tokens[:, :1]
    position = (batch.tokens == first_key).int()[:, 8:].argmax(dim=1)  # where pair 1 is asked
    assert (position % 2 == 0).all()
    slots = (T - 8) // 2
    p = np.arange(1, slots + 1) ** (power - 1.0)
    counts = (position // 2).bincount(minlength=slots).numpy()
    assert stats.chisquare(counts, 8000 * p / p.sum()).pvalue > 1e-3
    other = np.arange(1, slots + 1) ** (0.5 - 1.0)  # the test can tell another law apart
    assert stats.chisquare(counts, 8000 * other / other.sum()).pvalue < 1e-6


def test_mqar_reference_counts_the_values_seen():
    source = make("mqar", n_pairs=[2, 6])
    assert source.reference["accuracy_seen/pairs_6"] == 1 / 6
    right = total = 0.0
    for tokens, targets, group in rows_of(source):
        n = (2, 6)[group]
        guess = tokens[1]  # always the first value: right once in the row
        right += sum(targets[t] == guess for t in scored(targets))
        total += n
    assert source.reference["accuracy_seen"] == right / total


def test_weighted_choice_is_sequential_without_replacement():
    w = np.array([8.0, 4.0, 2.0, 1.0])
    drawn = choose_weighted(generator("test", 0, 0), 20000, w, 2)
    p = w / w.sum()
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    counts = [int(((drawn[:, 0] == i) & (drawn[:, 1] == j)).sum()) for i, j in pairs]
    expected = [20000 * p[i] * p[j] / (1 - p[i]) for i, j in pairs]
    assert stats.chisquare(counts, expected).pvalue > 1e-3


@pytest.mark.parametrize(("n_items", "n_chosen"), [(5, 2), (4, 2), (3, 3)])  # both ways of drawing
def test_choice_is_uniform_over_ordered_subsets(n_items, n_chosen):
    drawn = choose(generator("test", 1, 0), 12000, n_items, n_chosen)
    codes = (drawn * n_items ** np.arange(n_chosen)).sum(axis=1)
    counts = np.unique(codes, return_counts=True)[1]
    assert len(counts) == len(list(itertools.permutations(range(n_items), n_chosen)))
    assert stats.chisquare(counts).pvalue > 1e-3


def test_streams_of_two_purposes_differ():
    draws = [
        generator(*key).random() for key in (("a", 0, 0), ("b", 0, 0), ("a", 1, 0), ("a", 0, 1))
    ]
    assert len(set(draws)) == 4
    assert generator("a", 0, 0).random() == draws[0]


def test_two_variants_of_a_task_share_no_stream():
    """Or the rows of `n_pairs: [4]` would be parts of the rows of `n_pairs: [8]`."""
    four, eight = make("mqar", n_pairs=[4]), make("mqar", n_pairs=[8])
    same = four.train_batch(0, 0).tokens[:, 0:8:2] == eight.train_batch(0, 0).tokens[:, 0:8:2]
    assert same.float().mean() < 0.1


def test_induction_asks_for_the_follower():
    starts = set()
    for tokens, targets, _ in rows_of(make("induction", seq_len=8, rows=400)):
        place = tokens.index(0)
        starts.add(place)
        assert [t for t, token in enumerate(tokens) if token == 0] == [place, 7]
        assert scored(targets) == [7] and targets[7] == tokens[place + 1] != 0
    assert starts == set(range(6))


def test_selective_copying_answers_in_order():
    for tokens, targets, group in rows_of(make("selective_copying")):
        n = TASKS["selective_copying"]["n_data"][group]
        assert scored(targets) == list(range(T - n, T))
        assert set(tokens[-n:]) == {1}
        assert [token for token in tokens[:-n] if token != 0] == targets[-n:]


def test_selective_copying_places_are_uniform():
    batch = make("selective_copying", seq_len=16, rows=8000, n_data=[4]).train_batch(0, 0)
    counts = (batch.tokens[:, :12] != 0).sum(dim=0).numpy()
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("n_distractors", [0, 3])
def test_needle_lies_at_its_depth(n_distractors):
    source = make("needle", n_distractors=n_distractors)
    slots = (T - 1) // 2
    for tokens, targets, group in rows_of(source):
        assert scored(targets) == [T - 1]
        place = tokens.index(tokens[-1])
        assert place == 2 * round((0.0, 0.5, 1.0)[group] * (slots - 1))
        assert targets[-1] == tokens[place + 1]
        assert tokens.count(tokens[-1]) == 2
        keys = [token for token in tokens[:-1] if 32 <= token < 48]
        values = [token for token in tokens if token >= 48]
        assert len(set(keys)) == len(set(values)) == len(keys) == 1 + n_distractors


@pytest.mark.parametrize(
    ("name", "seq_len", "options", "message"),
    [
        ("mqar", 64, {"n_pairs": [17]}, "at most 16 pairs"),
        ("mqar", 64, {"n_pairs": [8], "vocab": 16}, "vocab: 18 or more"),
        ("mqar", 64, {"n_pairs": [4, 4]}, "none twice"),
        ("induction", 2, {}, "at least 3 tokens"),
        ("selective_copying", 64, {"n_data": [33]}, "at most 32"),
        ("needle", 64, {"n_distractors": 16}, "n_distractors: 15 or fewer"),
    ],
)
def test_impossible_tasks_are_refused(name, seq_len, options, message):
    with pytest.raises(ConfigError, match=message):
        make(name, seq_len, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mqar", {"n_pairs": [16], "vocab": 34}),
        ("selective_copying", {"n_data": [32]}),
        ("needle", {"n_distractors": 15}),
        ("induction", {"seq_len": 3}),
    ],
)
def test_the_largest_possible_tasks_work(name, options):
    source = make(name, **options)
    batch = source.train_batch(0, 0)
    assert batch.tokens.shape == batch.targets.shape
    assert 0 <= batch.tokens.min() <= batch.tokens.max() < source.vocab


class TestMixture:
    def mixture(self) -> Mixture:
        specs = {
            "recall": datasets.spec("mqar", rows=8, n_pairs=[2], vocab=32),
            "copy": datasets.spec("selective_copying", rows=4, n_data=[4]),
            "heads": datasets.spec("induction", rows=2, vocab=5),
        }
        return build_sources(specs, T)

    def test_rows_and_ids_of_a_source_are_its_own(self):
        mixture = self.mixture()
        assert mixture.parts == {
            "recall": slice(0, 8),
            "copy": slice(8, 12),
            "heads": slice(12, 14),
        }
        assert (mixture.rows, mixture.vocab) == (14, 32 + 16 + 5)
        batch = mixture.train_batch(0, 0)
        assert batch.tokens.shape == (14, T)
        for label, source in mixture.sources.items():
            alone, offset = source.train_batch(0, 0), mixture.offsets[label]
            rows = mixture.parts[label]
            assert torch.equal(batch.tokens[rows], alone.tokens + offset)
            kept = alone.targets != IGNORED
            assert torch.equal(batch.targets[rows][kept], alone.targets[kept] + offset)
            assert (batch.targets[rows][~kept] == IGNORED).all()
            assert torch.equal(batch.group[rows], alone.group)

    def test_no_id_means_two_things(self):
        mixture = self.mixture()
        owned = [
            set(range(offset, offset + mixture.sources[label].vocab))
            for label, offset in mixture.offsets.items()
        ]
        assert sum(map(len, owned)) == len(set.union(*owned)) == mixture.vocab

    def test_validation_comes_by_label_with_shifted_ids(self):
        mixture = self.mixture()
        seen = set()
        for label, batch in mixture.val_batches():
            seen.add(label)
            low = mixture.offsets[label]
            high = low + mixture.sources[label].vocab
            answers = batch.targets[batch.targets != IGNORED]
            for ids in (batch.tokens, answers):
                assert low <= ids.min() and ids.max() < high
        assert seen == set(mixture.sources)

    def test_fingerprint_depends_on_every_part_and_label(self):
        source, other = make("mqar"), make("induction")
        pairs = [{"a": source}, {"b": source}, {"a": other}, {"a": source, "b": other}]
        assert len({Mixture(parts).fingerprint for parts in pairs}) == len(pairs)
        assert self.mixture().fingerprint == self.mixture().fingerprint

    def test_nothing_to_train_on_is_refused(self):
        with pytest.raises(ConfigError, match="no source"):
            Mixture({})
