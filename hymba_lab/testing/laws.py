"""The laws of modules, fusions to mixers: shape, causality, gradient, seed, weights, copies, cost.

A law is a function of a `Subject` that returns nothing or raises `Broken`, which says how.
"""

import copy
import json
import pickle

import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hymba_lab.testing.subjects import WIRES, Broken, Subject


def options_round_trip(subject: Subject) -> None:
    """Options are the same after they were written as JSON and read again."""
    spec, path = subject.spec, subject.path
    schema: TypeAdapter[object] = TypeAdapter(subject.registry.schema())
    written = json.dumps(spec.model_dump(mode="json"))
    again = schema.validate_json(written)
    if again != spec or type(again) is not type(spec):
        raise Broken(f"{path}: written as {written}, read back as {again!r}; take plain JSON types")


@torch.no_grad()
def shape(subject: Subject) -> None:
    """The output is (B, T, width) in float32 and finite."""
    wired = subject.wired()
    y = wired.apply(subject.inputs(wired.d_in))
    wanted = (2, subject.widths.n_tokens, wired.d_out)
    if not isinstance(y, Tensor):
        raise Broken(f"forward returned {type(y).__name__}, not a tensor {list(wanted)}")
    if tuple(y.shape) != wanted:
        raise Broken(f"forward returned {list(y.shape)}; {list(wanted)} is needed")
    if y.dtype != torch.float32 or not y.isfinite().all():
        raise Broken(f"the output of float32 inputs is {y.dtype} or not finite")


@torch.no_grad()
def causality(subject: Subject) -> None:
    """A token changes its own output and nothing before it."""
    wired = subject.wired()
    x = subject.inputs(wired.d_in)
    last = subject.widths.n_tokens - 1
    for changed in (0, last // 2, last):
        other = x.clone()
        other[:, changed] += torch.randn(
            other[:, changed].shape, generator=torch.Generator().manual_seed(2)
        )
        change = (wired.apply(x) - wired.apply(other)).abs().amax(dim=(0, 2))
        before = change[:changed]
        if changed and before.max() > 1e-6:
            raise Broken(
                f"a change of token {changed} changes the output at token {int(before.argmax())} "
                f"before it by {float(before.max()):.2g}: it sees the future"
            )
        if change[changed] <= 1e-5:
            raise Broken(f"a change of token {changed} does not change its own output")


@torch.no_grad()
def rows_apart(subject: Subject) -> None:
    """The rows of a batch do not see each other."""
    wired = subject.wired()
    x = subject.inputs(wired.d_in, n_rows=3)
    alone = torch.cat([wired.apply(x[row : row + 1]) for row in range(len(x))])
    error = float((wired.apply(x) - alone).abs().max())
    if error > 1e-5 * max(1.0, float(alone.abs().max())):
        raise Broken(f"a row alone differs by {error:.2g} from the same row in a batch of three")


def gradient(subject: Subject) -> None:
    """A gradient reaches every parameter and every channel of the input."""
    wired = subject.wired()
    x = subject.inputs(wired.d_in).requires_grad_()
    y = wired.apply(x)
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(3))).sum().backward()  # type: ignore[no-untyped-call]
    if x.grad is None or (silent := (x.grad.abs().amax(dim=(0, 1)) == 0)).any():
        which = "no channel" if x.grad is None else f"channel {int(silent.nonzero()[0])}"
        raise Broken(f"{which} of the input is{' ' if x.grad is None else ' not '}read")
    for name, parameter in wired.module.named_parameters():
        if parameter.grad is None or not parameter.grad.abs().sum() > 0:
            raise Broken(f"no gradient reaches the parameter {name}: it would never be trained")
        if not parameter.grad.isfinite().all():
            raise Broken(f"the gradient of {name} is not finite")


@torch.no_grad()
def same_seed(subject: Subject) -> None:
    """The same seed gives the same result, and a second call the same as the first."""
    first, second = subject.wired(), subject.wired()
    x = subject.inputs(first.d_in)
    if not torch.equal(first.apply(x), second.apply(x)):
        raise Broken("two modules made with one seed differ: it draws from another random state")
    if not torch.equal(first.apply(x), first.apply(x)):
        raise Broken("a second call gives another result: something is kept, or drawn, in forward")


@torch.no_grad()
def weights_are_all(subject: Subject) -> None:
    """The state dict is the whole state: with equal weights two modules are equal."""
    first, second = subject.wired(0), subject.wired(1)
    second.module.load_state_dict(first.module.state_dict())
    x = subject.inputs(first.d_in)
    if not torch.equal(first.apply(x), second.apply(x)):
        raise Broken("with equal weights two modules differ: a number it uses is not in state_dict")


def copies(subject: Subject) -> None:
    """A deep copy and a pickled copy are equal and share no memory."""
    module = subject.wired().module
    for how, twin in (("deepcopy", copy.deepcopy(module)), ("pickle", _pickled(module))):
        mine, theirs = module.state_dict(), twin.state_dict()
        if mine.keys() != theirs.keys() or any(not torch.equal(mine[k], theirs[k]) for k in mine):
            raise Broken(f"a copy by {how} has other weights")
        places = {p.data_ptr() for p in module.parameters() if p.numel()}
        if places & {p.data_ptr() for p in twin.parameters()}:
            raise Broken(f"a copy by {how} shares memory with the original")


def bfloat16(subject: Subject) -> None:
    """Under bfloat16 autocast it is near its float32 result, and its gradients stay float32."""
    wired = subject.wired()
    x = subject.inputs(wired.d_in)
    exact = wired.apply(x).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = wired.apply(x)
    error = float((y.detach().float() - exact).abs().max())
    if not error <= 0.1 * (1 + float(exact.abs().max())):
        raise Broken(f"under bfloat16 autocast its output is {error:.2g} away from float32's")
    y.float().square().sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in wired.module.named_parameters():
        if parameter.grad is None or not parameter.grad.isfinite().all():
            raise Broken(f"under bfloat16 autocast {name} gets no finite gradient")


def costs(subject: Subject) -> None:
    """On the meta device, without memory, it has the same parameters and shapes: costs are free."""
    real = subject.wired()
    with torch.device("meta"), FlopCounterMode(display=False):
        wired = WIRES[subject.path](subject)
        y = wired.apply(torch.empty(2, subject.widths.n_tokens, wired.d_in))
    if not y.is_meta or tuple(y.shape) != (2, subject.widths.n_tokens, wired.d_out):
        raise Broken(f"on the meta device forward returned {list(y.shape)} on {y.device}")
    shapes = {key: value.shape for key, value in wired.module.state_dict().items()}
    if shapes != {key: value.shape for key, value in real.module.state_dict().items()}:
        raise Broken("its parameters on the meta device are not those that it really has")


def _pickled(module: torch.nn.Module) -> torch.nn.Module:
    twin: torch.nn.Module = pickle.loads(pickle.dumps(module))
    return twin
