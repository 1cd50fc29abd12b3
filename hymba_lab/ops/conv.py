"""Depthwise causal convolution with SiLU, the short filter in front of the scan."""

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor, *, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return `(y, state)`: y_t = SiLU(bias + sum_k weight_k x_{t-K+1+k}), and the last K-1 inputs.

    x, y (B, T, D); weight (D, K); bias (D,); state (B, K-1, D), the inputs before x (zeros when
    None). Feeding the returned state to the next call continues the sequence. B batch, T time,
    D channels, K filter length [tokens].
    """
    before = weight.shape[1] - 1
    padded = F.pad(x, (0, 0, before, 0)) if state is None else torch.cat((state.to(x), x), dim=1)
    filters = weight.unsqueeze(1)
    y = F.conv1d(padded.transpose(1, 2), filters, bias, groups=x.shape[2]).transpose(1, 2)
    # a copy: a view would keep the whole padded sequence alive in a decoding cache
    return F.silu(y), padded[:, x.shape[1] :].clone()
