"""What a configuration costs, before anything is trained: parameters, FLOPs, cache, memory.

Nothing here describes a component a second time: parameters are counted on the model built on the
meta device, FLOPs by torch's counter (with the formulas that `hymba_lab.ops` registers), cache
elements by asking every component that keeps a state (`cache_shapes`), activations by what
autograd saves. A newcomer's component therefore has its costs for free.
"""

from hymba_lab.cost.model import count, meta_model
from hymba_lab.cost.totals import Costs, measure_costs

__all__ = ["Costs", "count", "measure_costs", "meta_model"]
