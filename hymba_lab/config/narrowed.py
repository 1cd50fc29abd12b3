"""The schema with every slot narrowed to the components that are registered now.

It is assembled from the registries at load time, so a component registered by a plugin is checked,
listed and suggested like one of the package's own.
"""

from functools import lru_cache, partial
from types import GenericAlias
from typing import Annotated, Any

from pydantic import Field, create_model

from hymba_lab.config.registries import ABSENT, absent, all_registries
from hymba_lab.config.schema import PER_LAYER, Config, Layers, ModelConfig
from hymba_lab.registry import LATER


@lru_cache(maxsize=8)
def config_type(names: tuple[tuple[str, ...], ...], *plugin_hashes: str) -> type[Config]:
    """Return `Config` with every slot narrowed to the components registered now."""
    slots = {
        path: registry.schema(allowed)
        for (path, registry), allowed in zip(all_registries().items(), names, strict=True)
    }
    model: dict[str, Any] = {
        path.removeprefix("model."): (schema, ...)
        for path, schema in slots.items()
        if path.startswith("model.")
    }
    other: dict[str, Any] = {key: (model[key][0] | None, None) for key in PER_LAYER}
    layers = create_model("Layers", __base__=Layers, **other)
    model["layers"] = (Annotated[tuple[layers, ...], LATER], ())  # type: ignore[valid-type]
    for key in ABSENT:
        default = Field(default_factory=partial(absent, key))
        model[key] = (Annotated[model[key][0], LATER], default)
    label = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    sources: Any = GenericAlias(dict, (label, slots["data"]))  # dict[label, ...], made at run time
    parts: dict[str, Any] = {
        "model": (create_model("ModelConfig", __base__=ModelConfig, **model), ...),
        "data": (Annotated[sources, Field(min_length=1)], ...),
        "optimizer": (slots["optimizer"], ...),
        "schedule": (slots["schedule"], ...),
    }
    return create_model("Config", __base__=Config, **parts)
