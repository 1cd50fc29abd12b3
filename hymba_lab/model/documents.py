"""Documents packed into rows, each computed as if it stood alone."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch import distributed as dist

LONGEST = 32  # powers of two: no document is longer


def by_document(
    features: Callable[[Tensor], Tensor], tokens: Tensor, starts: Tensor, together: bool = False
) -> Tensor:
    """Return features (B, T, D) of tokens (B, T) in which no document sees an earlier one.

    `starts` (B, T) is true where a document begins. Every document becomes a row of its own, with
    its own meta tokens and positions, so that attention, the state of a recurrence and the inputs
    of a convolution begin anew in whatever mixer; the padding stands behind, where a causal model
    does not see it. Documents of about equal length are computed together: rows of less than twice
    the tokens in all, and at most log2(T) + 1 calls; `together` with all other ranks, as many.
    """
    starts = starts.clone()
    starts[:, 0] = True  # what goes on from the row before is a document of this one
    begins = starts.flatten().nonzero().squeeze(1)
    ends = torch.cat([begins[1:], begins.new_tensor([tokens.numel()])])
    made, places, idle = [], [], list[Tensor]()
    for chosen in _alike(ends - begins, together):
        if not len(chosen):
            idle.append(0 * features(tokens[:1, :1]).sum())
            continue
        lengths = (ends - begins)[chosen]
        steps = torch.arange(int(lengths.max()), device=tokens.device)
        real = steps < lengths[:, None]
        at = torch.where(real, begins[chosen][:, None] + steps, 0)
        rows = torch.where(real, tokens.flatten()[at], 0)
        made.append(features(rows)[real])
        places.append(at[real])
    order = torch.cat(places).argsort()
    found = torch.cat(made).index_select(0, order).view(*tokens.shape, -1)
    return found + torch.stack(idle).sum() if idle else found


def _alike(lengths: Tensor, together: bool) -> Iterator[Tensor]:
    """Yield the documents (indices) whose lengths lie between the same powers of two.

    Ranks that wait for each other in every block must make equally many calls: `together` none of
    a power that only another rank has is yielded, too.
    """
    powers = lengths.double().log2().floor().long()
    counts = torch.bincount(powers, minlength=LONGEST)
    if together:
        dist.all_reduce(counts)
    for power in counts.nonzero().squeeze(1).tolist():
        yield (powers == power).nonzero().squeeze(1)


def cut_over_ranks(model: nn.Module) -> bool:
    """Whether ranks hold parts of the model, and wait for each other in every block (FSDP2)."""
    if not dist.is_available() or not dist.is_initialized():
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)
