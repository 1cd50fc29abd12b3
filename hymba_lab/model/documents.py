"""Documents packed into rows, each computed as if it stood alone."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def by_document(features: Callable[[Tensor], Tensor], tokens: Tensor, starts: Tensor) -> Tensor:
    """Return features (B, T, D) of tokens (B, T) in which no document sees an earlier one.

    `starts` (B, T) is true where a document begins. Every document becomes a row of its own, with
    its own meta tokens and positions, so that attention, the state of a recurrence and the inputs
    of a convolution begin anew in whatever mixer; the padding stands behind, where a causal model
    does not see it. Documents of about equal length are computed together: rows of less than twice
    the tokens in all, and at most log2(T) + 1 calls.
    """
    starts = starts.clone()
    starts[:, 0] = True  # what goes on from the row before is a document of this one
    begins = starts.flatten().nonzero().squeeze(1)
    ends = torch.cat([begins[1:], begins.new_tensor([tokens.numel()])])
    made, places = [], []
    for chosen in _alike(ends - begins):
        lengths = (ends - begins)[chosen]
        steps = torch.arange(int(lengths.max()), device=tokens.device)
        real = steps < lengths[:, None]
        at = torch.where(real, begins[chosen][:, None] + steps, 0)
        rows = torch.where(real, tokens.flatten()[at], 0)
        made.append(features(rows)[real])
        places.append(at[real])
    order = torch.cat(places).argsort()
    return torch.cat(made).index_select(0, order).view(*tokens.shape, -1)


def _alike(lengths: Tensor) -> Iterator[Tensor]:
    """Yield the documents (indices) whose lengths lie between the same powers of two.

    Ranks that wait for each other in every block must make equally many calls: all at once there.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and torch.distributed.get_world_size() > 1:
        yield torch.arange(len(lengths), device=lengths.device)
        return
    powers = lengths.double().log2().floor().long()
    for power in sorted(set(powers.tolist())):
        yield (powers == power).nonzero().squeeze(1)
