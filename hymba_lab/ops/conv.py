"""Depthwise causal convolution with SiLU, the short filter in front of the scan."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hymba_lab.ops import one_token


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
    # a copy: a view would keep the whole padded sequence alive in a decoding cache
    return F.silu(_depthwise(padded, weight, bias)), padded[:, x.shape[1] :].clone()


def causal_conv_step(x: Tensor, weight: Tensor, bias: Tensor, *, state: Tensor) -> Tensor:
    """Return y (B, D) after one token x (B, D); it becomes the newest input of `state` in place."""
    if one_token.fits(x, weight, bias, state) and state.is_contiguous():
        return one_token.conv_step(x, weight, bias, state)
    seen = torch.cat([state, x.unsqueeze(1)], dim=1)
    state.copy_(seen[:, 1:])
    # one output is a weighted sum, without a convolution's preparations
    exact = torch.promote_types(x.dtype, torch.float32)
    return F.silu((seen * weight.t()).sum(1, dtype=exact) + bias).to(x.dtype)


def _depthwise(padded: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(B, T + K - 1, D) -> (B, T, D), each channel filtered by itself."""
    channels_first = padded.transpose(1, 2)
    groups = padded.shape[2]
    if not padded.is_cpu:
        return F.conv1d(channels_first, weight.unsqueeze(1), bias, groups=groups).transpose(1, 2)
    # as an image of height 1 the layout (B, T, D) is "channels last", which the CPU kernel takes
    # without transposing: two to three times as fast
    image, filters = channels_first.unsqueeze(2), weight[:, None, None, :]
    return F.conv2d(image, filters, bias, groups=groups).squeeze(2).transpose(1, 2)
