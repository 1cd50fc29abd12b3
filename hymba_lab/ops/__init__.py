"""The sequence operations of a hybrid layer: recurrences, causal convolution, attention.

Each is one function that takes the fastest implementation present; `backends()` says which.
"""

from hymba_lab.ops import delta_rule, ssd  # noqa: F401 - with their implementations
from hymba_lab.ops.attention import attention, attention_step
from hymba_lab.ops.conv import causal_conv, causal_conv_step
from hymba_lab.ops.scan import selective_scan, selective_scan_step
from hymba_lab.ops.status import backends

__all__ = [
    "attention",
    "attention_step",
    "backends",
    "causal_conv",
    "causal_conv_step",
    "selective_scan",
    "selective_scan_step",
]
