"""The lab's models as transformers models: `import hymba_lab.hf` registers them.

From then on `AutoConfig`, `AutoModel` and `AutoModelForCausalLM` read folders in the released
format (model_type `hymba`) and folders of any architecture of the lab (`hymba_lab`). Needs the
extra `hf`.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.conversion_mapping import register_checkpoint_conversion_mapping

from hymba_lab.hf.cache import GenerationCache
from hymba_lab.hf.config import HymbaConfig, HymbaLabConfig
from hymba_lab.hf.model import (
    HymbaForCausalLM,
    HymbaLabForCausalLM,
    HymbaLabModel,
    HymbaModel,
)
from hymba_lab.hf.names import conversions

__all__ = [
    "GenerationCache",
    "HymbaConfig",
    "HymbaForCausalLM",
    "HymbaLabConfig",
    "HymbaLabForCausalLM",
    "HymbaLabModel",
    "HymbaModel",
]

AutoConfig.register(HymbaConfig.model_type, HymbaConfig, exist_ok=True)
AutoModel.register(HymbaConfig, HymbaModel, exist_ok=True)
AutoModelForCausalLM.register(HymbaConfig, HymbaForCausalLM, exist_ok=True)
AutoConfig.register(HymbaLabConfig.model_type, HymbaLabConfig, exist_ok=True)
AutoModel.register(HymbaLabConfig, HymbaLabModel, exist_ok=True)
AutoModelForCausalLM.register(HymbaLabConfig, HymbaLabForCausalLM, exist_ok=True)
register_checkpoint_conversion_mapping(HymbaConfig.model_type, conversions(), overwrite=True)
