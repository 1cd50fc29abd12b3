"""Packed rows on two ranks against one process; a process of `test_borders.py` for each rank.

Rank 0 has one long document, rank 1 many short ones: they make calls of different lengths.
"""

import sys

import torch
import torch.distributed as dist
from test_borders import T, model_of, packed
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

LENGTHS = [[T], [1] * (T - 3) + [3]]


def main() -> None:
    """Compare features and gradients; `shard` cuts the model over both ranks."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, shard = dist.get_rank(), sys.argv[1] == "shard"
    tokens, starts = packed(LENGTHS)
    weights = torch.randn(2, T, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    alone, model = model_of("both"), model_of("both")
    computed = []
    model.blocks[0].register_forward_pre_hook(lambda _, given: computed.append(given[0].shape[:2]))
    if shard:
        for block in model.blocks:
            fully_shard(block)
        fully_shard(model, reshard_after_forward=False)
        register_fsdp_forward_method(model, "features")
    own = slice(rank, rank + 1)
    found = model.features(tokens[own], starts=starts[own])
    (found * weights[own]).sum().backward()

    expected = alone.features(tokens, starts=starts)
    (expected * weights).sum().backward()
    torch.testing.assert_close(found, expected[own])
    n_compared = 0
    for (name, one), other in zip(model.named_parameters(), alone.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), f"{name}: a gradient was lost"
        if one.grad is None or other.grad is None:
            continue  # no part of the features
        n_compared += 1
        if shard:
            grad = one.grad.full_tensor() * 2  # FSDP takes the mean over ranks
        else:
            grad = one.grad.clone()
            dist.all_reduce(grad)
        torch.testing.assert_close(grad, other.grad, msg=name)
    assert n_compared > 0
    if not shard:  # a rank pays for the padding of its own rows only
        assert sum(rows * width for rows, width in computed) < 2 * T, computed
    print(f"rank {rank}: {len(computed)} calls")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
