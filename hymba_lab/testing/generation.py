"""The laws of generation: in steps as in one pass, and what is kept is what `cache_shapes` says."""

import copy
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from hymba_lab.components.past import kept_dtype, kept_shapes
from hymba_lab.components.short_conv import ShortConv
from hymba_lab.config import from_resolved
from hymba_lab.model import LanguageModel, build_model
from hymba_lab.model.block import Block
from hymba_lab.model.memory import CUTS, in_steps, memory_fault
from hymba_lab.testing.subjects import PARTS, Broken, Subject

VOCAB = 17
TOLERANCE = 1e-4  # of the size of the outputs


def remembers(subject: Subject) -> None:
    """Token by token and in chunks the outputs are those of the whole sequence."""
    facts, module = subject.widths, subject.wired().module
    fault = memory_fault(PARTS[subject.path], module, facts.d_model, facts.n_meta)
    if fault:
        raise Broken(fault)


def padding_leaves_no_trace(subject: Subject) -> None:
    """A row that ends before the others goes on as it would alone."""
    facts, part = subject.widths, PARTS[subject.path]
    module = subject.wired().module.eval()
    random = torch.Generator().manual_seed(4)
    x = torch.randn(3, facts.n_meta + 12, facts.d_model, generator=random)
    lengths, cuts = torch.tensor([9, 2, 5]), (4, 5, 1, 1, 1)
    n_real = [(lengths - start).clamp(0, n) for start, n in ((0, 4), (4, 5))]
    made, _ = in_steps(part, module, x, facts.n_meta, cuts, [*n_real, None, None, None])
    for row, n in enumerate(lengths.tolist()):
        text = torch.cat([x[row, : facts.n_meta + n], x[row, -3:]])[None]
        alone, _ = in_steps(part, module, text, facts.n_meta, (n, 1, 1, 1))
        error = _relative(made[row, -3:], alone[0, -3:])
        if not error <= TOLERANCE:
            raise Broken(
                f"a row of {n} tokens beside one of 9 goes on {error:.0%} away from what it would "
                "be alone: padding changed its state (see `no_step` of `Recurrence`)"
            )


def cache_is_what_it_says(subject: Subject) -> None:
    """The bytes kept while generating are those of `cache_shapes`, and nothing is kept beside."""
    facts, part = subject.widths, PARTS[subject.path]
    module = subject.wired().module.eval()
    n_tokens = sum(CUTS)
    shapes = kept_shapes(module, n_tokens)
    if shapes is None or not all(
        isinstance(name, str) and all(isinstance(n, int) and n >= 0 for n in shape)
        for name, shape in shapes.items()
    ):
        raise Broken(f"cache_shapes({n_tokens}) is {shapes!r}, not a dict of name -> sizes")
    before, held = copy.deepcopy(module.state_dict()), set(_tensors(module))
    x = torch.randn(2, facts.n_meta + n_tokens, facts.d_model)
    _, kept = in_steps(part, module, x, facts.n_meta, CUTS)
    said = sum(
        2 * torch.Size(shape).numel() * kept_dtype(name, x.dtype).itemsize
        for name, shape in shapes.items()
    )
    found = sum(buffer.nbytes for buffer in kept.buffers.values())
    if found != said:
        raise Broken(f"cache_shapes says {said} bytes for two rows, {found} are kept")
    if beside := sorted(set(_tensors(module)) - held):
        raise Broken(f"it keeps {beside[0]} beside the cache; name it in cache_shapes instead")
    if any(not torch.equal(before[key], value) for key, value in module.state_dict().items()):
        raise Broken("generating changes its weights or buffers; keep states in the cache instead")


def generates_in_bfloat16(subject: Subject) -> None:
    """In bfloat16, where states stay float32, steps are near the whole pass in float32."""
    facts, part = subject.widths, PARTS[subject.path]
    module = subject.wired().module.eval()
    x = torch.randn(2, facts.n_meta + sum(CUTS), facts.d_model)
    exact, _ = in_steps(part, module, x, facts.n_meta, CUTS)
    made, _ = in_steps(part, module.bfloat16(), x.bfloat16(), facts.n_meta, CUTS)
    error = _relative(made.float(), exact)
    if not error <= 0.1:
        raise Broken(f"in bfloat16 its steps are {error:.0%} of their size away from float32's")


@torch.no_grad()
def generates_in_a_model(subject: Subject) -> None:
    """A model with it generates, token by token and in chunks, what its forward pass says."""
    model = _model_with(subject)
    tokens = torch.randint(0, VOCAB, (2, 14), generator=torch.Generator().manual_seed(5))
    whole = model(tokens)
    for cuts in ([1] * 14, [5, 6, 1, 1, 1]):
        cache = model.cache(2, 14)
        steps = [model.logits(model.features(part, cache)) for part in tokens.split(cuts, 1)]  # type: ignore[no-untyped-call]
        error = _relative(torch.cat(steps, 1), whole)
        if not error <= TOLERANCE:
            raise Broken(
                f"in a model, steps of {cuts[0]} tokens give logits {error:.0%} of their size away "
                "from the whole forward pass: it looks at other tokens without asking a past"
            )


def _relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))


def _tensors(module: nn.Module) -> Iterator[str]:
    """Yield the names of tensors that a module holds as attributes, in lists and dicts too."""
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                yield from (f"{prefix}.{name}".lstrip(".") for _ in _inside(value))


def _inside(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from (tensor for one in value.values() for tensor in _inside(one))
    elif isinstance(value, (list, tuple)):
        yield from (tensor for one in value for tensor in _inside(one))


def _model_with(subject: Subject) -> LanguageModel:
    """Return a small model of both branches in which every module of the axis is the subject's."""
    facts, heads, part = subject.widths, subject.widths.heads, subject.path.split(".")[1]
    meta = subject.build(facts.d_model) if part == "meta_tokens" else None
    n_meta = meta.n_meta if meta else facts.n_meta
    shape = {
        "d_model": facts.d_model,
        "n_layers": 3,
        "heads": {
            "name": "hybrid", "n_heads": heads.n_heads, "n_kv_heads": heads.n_kv_heads,
            "d_head": heads.d_head, "d_head_v": heads.d_head_v,
            "d_inner": facts.d_inner,
        },
        "order": {"name": "parallel"},
        "fusion": {"name": "concat"},
        "meta_tokens": {"name": "learned", "n_meta": n_meta},
        "placement": {"name": "explicit", "window": 4, "full": [0]},
        "kv_sharing": {"name": "adjacent"},
        "attention": {"name": "softmax"},
        "ssm": {"name": "mamba1", "d_state": 4},
        "mlp": {"name": "swiglu", "d_ff": 24},
        "init_std": 0.2,
    }  # fmt: skip
    config = from_resolved({**EXPERIMENT, "model": shape})
    torch.manual_seed(0)
    model = build_model(config.model, VOCAB)
    model.meta = meta or model.meta
    for layer, block in zip(model.plan, cast("list[Block]", list(model.blocks)), strict=True):
        if part == "fusion":
            block.mixer.fusion = subject.build(heads.d_out, facts.d_inner, facts.d_model)
        elif part == "attention":
            block.mixer.attention = subject.build(
                facts.d_model, heads, layer.window, n_meta, layer.owns_kv
            )
        elif part == "ssm":
            block.mixer.ssm = subject.build(facts.d_model, facts.d_inner)
        elif part == "mlp":
            block.mlp = subject.build(facts.d_model)
        elif part == "short_conv":
            plan = subject.build()
            block.conv_mixer = ShortConv(facts.d_model, plan.d_conv) if plan.mixer else None
            block.conv_mlp = ShortConv(facts.d_model, plan.d_conv) if plan.mlp else None
    return model.eval()


EXPERIMENT = {
    "name": "law",
    "scale": "tiny",
    "data": {"recall": {"name": "induction", "rows": 1}},
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "schedule": {"name": "constant"},
    "training": {"seq_len": 8, "tokens": 8, "val_every": 1},
}
