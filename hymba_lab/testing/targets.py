"""What a file brings along: the components of a plugin, or those that an experiment names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hymba_lab.config import Config, all_registries, load_config
from hymba_lab.config.plugins import added_by, load_plugin
from hymba_lab.config.schema import PER_LAYER
from hymba_lab.errors import ConfigError, UserError
from hymba_lab.model import LayerPlan, plan_layers
from hymba_lab.registry import Registry, Spec
from hymba_lab.testing.subjects import Subject, Widths, example


def subjects_of(path: Path, overrides: Sequence[str] = ()) -> list[Subject]:
    """Return the components of a plugin (.py) or of an experiment (.yaml).

    Of an experiment with plugins those that the plugins add, with the options that it gives them;
    without plugins all that it uses. Raises `UserError` for a file that adds none.
    """
    if path.suffix == ".py":
        load_plugin(path.resolve(), list(all_registries().values()))
        found = [Subject(axis, example(axis, name)) for axis, name in added_by([path.resolve()])]
        said = "registers no component; decorate one, e.g. @fusions.register('mine')"
    elif path.suffix in (".yaml", ".yml"):
        config = load_config(path, overrides)
        found = _of_experiment(config)
        said = "its plugins register no component"
    else:
        raise UserError(f"{path}: give a plugin (.py) or an experiment (.yaml).")
    if not found:
        raise UserError(f"{path}: {said}.")
    return sorted(found, key=lambda subject: (subject.path, subject.spec.name))


def _of_experiment(config: Config) -> list[Subject]:
    used, widths = _used(config), _widths(config)
    if not config.plugins:
        return [Subject(axis, spec, widths) for axis, spec in used if spec.name != "none"]
    given = {(axis.path, spec.name): spec for axis, spec in used}
    return [
        Subject(axis, given.get((axis.path, name)) or example(axis, name), widths)
        for axis, name in added_by([Path(plugin) for plugin in config.plugins])
    ]


def _used(config: Config) -> list[tuple[Registry[Any], Spec]]:
    """Return every component that an experiment's model, data and training take, with its axis."""
    registries, model, left_out = all_registries(), config.model, _not_built(config)
    named = [
        (axis, getattr(model, path.removeprefix("model.")))
        for path, axis in registries.items()
        if path.startswith("model.") and path not in left_out
    ]
    named += [
        (registries[f"model.{key}"], spec)
        for part in model.layers
        for key in PER_LAYER
        if (spec := getattr(part, key)) is not None
    ]
    named += [(registries["data"], spec) for spec in config.data.values()]
    named += [(registries[name], getattr(config, name)) for name in ("optimizer", "schedule")]
    return named


def _not_built(config: Config) -> set[str]:
    """Return the axes of which no layer of the model has a component, whatever they name."""
    kinds = {layer.kind for layer in _planned(config)}
    fusion = set() if "parallel" in kinds else {"model.fusion"}
    ssm = set() if kinds & {"parallel", "ssm"} else {"model.ssm"}
    of_attention = {"model.attention", "model.placement", "model.kv_sharing"}
    return fusion | ssm | (set() if kinds & {"parallel", "attention"} else of_attention)


def _planned(config: Config) -> list[LayerPlan]:
    try:
        return plan_layers(config.model)
    except ConfigError as error:
        raise config.blame(error) from None


def _widths(config: Config) -> Widths:
    """Return the widths of an experiment's model, as far as it has both branches."""
    plan = _planned(config)
    d_model, usual = config.model.d_model, Widths()
    heads = next((layer.heads.attention for layer in plan if layer.heads.attention), None)
    d_inner = next((layer.heads.d_inner for layer in plan if layer.heads.d_inner), 2 * d_model)
    windows = tuple(layer.window for layer in plan if layer.heads.attention)
    return Widths(
        d_model, d_inner, heads or usual.heads, n_layers=len(plan), windows=windows or usual.windows
    )
