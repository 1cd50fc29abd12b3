"""The three sequence operations of a hybrid layer: selective scan, causal convolution, attention.

Each is one function that takes the fastest implementation present; `backends()` says which.
"""

from hymba_lab.ops.attention import attention
from hymba_lab.ops.conv import causal_conv
from hymba_lab.ops.scan import selective_scan, selective_scan_step
from hymba_lab.ops.selection import backends

__all__ = ["attention", "backends", "causal_conv", "selective_scan", "selective_scan_step"]
