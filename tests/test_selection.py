"""The implementations of an operation: the first that can and fits, or the one that is forced."""

from collections.abc import Iterator

import pytest
import torch

from hymba_lab.errors import UserError
from hymba_lab.ops.selection import OPERATIONS, Implementation, Operation
from hymba_lab.ops.status import backends


@pytest.fixture
def doubling() -> Iterator[Operation]:
    yield Operation(
        "doubling",
        "doubling",
        "HYMBA_LAB_DOUBLING",
        {
            "absent": Implementation(
                lambda x: x, "a kernel that is not there", missing=lambda: "no"
            ),
            "short": Implementation(
                lambda x: x + x, "an addition", "at most two numbers", takes=lambda x: len(x) < 3
            ),
            "plain": Implementation(lambda x: 2 * x, "a product"),
        },
    )
    del OPERATIONS["doubling"]


def test_the_first_that_can_and_fits_runs(doubling: Operation) -> None:
    assert doubling.choose(torch.ones(2)) == "short"
    assert doubling.choose(torch.ones(3)) == "plain"
    assert doubling.run(torch.ones(3))(torch.ones(3)).tolist() == [2, 2, 2]


def test_a_forced_one_runs_or_says_why_not(
    doubling: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYMBA_LAB_DOUBLING", "plain")
    assert doubling.choose(torch.ones(2)) == "plain"
    monkeypatch.setenv("HYMBA_LAB_DOUBLING", "short")
    with pytest.raises(UserError, match=r"at most two numbers; given torch\.float32 on cpu"):
        doubling.choose(torch.ones(3))
    monkeypatch.setenv("HYMBA_LAB_DOUBLING", "absent")
    with pytest.raises(UserError, match="HYMBA_LAB_DOUBLING=absent cannot run: no"):
        doubling.choose(torch.ones(3))
    monkeypatch.setenv("HYMBA_LAB_DOUBLING", "other")
    with pytest.raises(UserError, match="allowed: absent, short, plain"):
        doubling.choose(torch.ones(3))


def test_an_operation_is_in_the_status_by_itself(doubling: Operation) -> None:
    status = backends()["doubling"]
    assert (status["chosen"], status["available"]) == ("short", ["short", "plain"])
    assert status["unavailable"] == {"absent": "no"} and status["title"] == "doubling"


def test_a_graph_holds_the_choice_as_a_constant(doubling: Operation) -> None:
    def twice(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = doubling.run(x)(x)
        return y

    compiled = torch.compile(twice, fullgraph=True, backend="eager")
    assert compiled(torch.ones(4)).tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_the_last_implementation_takes_everything(name: str) -> None:
    last = list(OPERATIONS[name].implementations.values())[-1]
    assert last.missing() is None and last.inputs == "any tensor"


@pytest.mark.parametrize("name", ["causal_conv", "rms_norm", "rotation", "swiglu", "attention"])
def test_every_implementation_can_be_forced(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forms of an operation agree, each called through the same function."""
    from hymba_lab.ops import attention, causal_conv
    from hymba_lab.ops.rms_norm import rms_norm
    from hymba_lab.ops.rotary import rotate
    from hymba_lab.ops.swiglu import swiglu

    random = torch.Generator().manual_seed(0)
    x, w = torch.randn(2, 24, 16, generator=random), torch.randn(16, 4, generator=random)
    heads = torch.randn(2, 4, 24, 16, generator=random)
    calls = {
        "causal_conv": lambda: causal_conv(x, w, w[:, 0])[0],
        "rms_norm": lambda: rms_norm(x, w[:, 0], 1e-6),
        "rotation": lambda: rotate(heads, range(24), 100.0),
        "swiglu": lambda: swiglu(x, x.flip(1)),
        "attention": lambda: attention(heads, heads, heads, window=5, n_meta=2),
    }
    operation, found = OPERATIONS[name], {}
    for form, one in operation.implementations.items():
        if one.missing() is None and "cpu" in one.devices and form != "blocks":
            monkeypatch.setenv(operation.variable, form)
            found[form] = calls[name]()
    first, *others = found.values()
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-5, atol=1e-5)
    assert len(found) >= 1
