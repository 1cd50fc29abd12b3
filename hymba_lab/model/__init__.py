"""The language model: a plan in integers, then tensors."""

from hymba_lab.model.language_model import LanguageModel, build_model
from hymba_lab.model.plan import LayerPlan, plan_layers

__all__ = ["LanguageModel", "LayerPlan", "build_model", "plan_layers"]
