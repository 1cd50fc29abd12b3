"""The registry: a signature becomes a schema, facts and options stay apart."""

import copy
import subprocess
import sys
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from hymba_lab.errors import ConfigError
from hymba_lab.registry import Registry, Spec


class Wheel:
    """Round."""

    def __init__(
        self,
        diameter: int,
        *,
        spokes: Annotated[int, Field(ge=3)],
        color: Literal["black", "red"] = "black",
        gears: list[int] = [1, 2],
        width: float | None = None,
    ) -> None:
        self.diameter, self.options = diameter, (spokes, color, gears, width)


@pytest.fixture
def wheels() -> Registry[Any]:
    registry: Registry[Any] = Registry("bike.wheel")
    registry.register("spoked")(Wheel)

    @registry.register("disc")
    def disc(diameter: int, *, weight: float = 1.0) -> tuple[int, float]:
        return diameter, weight

    @registry.register("none")
    def none(diameter: int) -> None:
        return None

    return registry


def refused(registry: Registry[Any], text: str) -> list[str]:
    """The kinds of fault pydantic finds in JSON `text`."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(registry.schema()).validate_json(text)
    return [fault["type"] for fault in caught.value.errors()]


def test_a_decorated_component_stays_itself(wheels: Registry[Any]) -> None:
    assert wheels.entry("spoked") is Wheel


def test_names_are_sorted_and_known(wheels: Registry[Any]) -> None:
    assert list(wheels) == ["disc", "none", "spoked"]
    assert "disc" in wheels and "square" not in wheels


def test_options_are_the_keyword_only_parameters(wheels: Registry[Any]) -> None:
    assert wheels.options("spoked") == ["spokes", "color", "gears", "width"]
    assert wheels.options("none") == []


def test_build_passes_facts_by_position_and_options_by_name(wheels: Registry[Any]) -> None:
    wheel = wheels.build(wheels.spec("spoked", spokes=8, width=2.5), 622)
    assert wheel.diameter == 622
    assert wheel.options == (8, "black", [1, 2], 2.5)
    assert wheels.build(wheels.spec("disc"), 622) == (622, 1.0)
    assert wheels.build(wheels.spec("none"), 622) is None


def test_every_default_is_filled_in(wheels: Registry[Any]) -> None:
    spec = TypeAdapter(wheels.schema()).validate_json('{"name": "spoked", "spokes": 3}')
    assert isinstance(spec, Spec)
    assert spec.options() == {"spokes": 3, "color": "black", "gears": [1, 2], "width": None}


def test_specs_share_no_default(wheels: Registry[Any]) -> None:
    first, second = wheels.spec("spoked", spokes=3), wheels.spec("spoked", spokes=3)
    first.options()["gears"].append(3)
    assert second.options()["gears"] == [1, 2]


def test_specs_are_frozen_and_compare_by_value(wheels: Registry[Any]) -> None:
    spec = wheels.spec("disc", weight=2.0)
    with pytest.raises(ValidationError, match="frozen"):
        spec.weight = 3.0  # type: ignore[attr-defined]
    assert copy.deepcopy(spec) == spec != wheels.spec("disc")


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ('{"name": "spoked", "spokes": "8"}', ["int_type"]),
        ('{"name": "spoked", "spokes": 8.0}', ["int_type"]),
        ('{"name": "spoked", "spokes": true}', ["int_type"]),
        ('{"name": "spoked", "spokes": null}', ["int_type"]),
        ('{"name": "spoked", "spokes": 2}', ["greater_than_equal"]),
        ('{"name": "spoked"}', ["missing"]),
        ('{"name": "spoked", "spokes": 3, "spoke": 3}', ["extra_forbidden"]),
        ('{"name": "spoked", "spokes": 3, "diameter": 3}', ["extra_forbidden"]),  # a fact
        ('{"name": "spoked", "spokes": 3, "color": "Red"}', ["literal_error"]),
        ('{"name": "spoked", "spokes": 3, "gears": 1}', ["list_type"]),
        ('{"name": "spoked", "spokes": 3, "width": NaN}', ["finite_number"]),
        ('{"name": "disc", "weight": Infinity}', ["finite_number"]),
        ('{"name": "disc", "weight": true}', ["float_type"]),
        ('{"name": "none", "weight": 1.0}', ["extra_forbidden"]),
        ('{"name": "square"}', ["union_tag_invalid"]),
        ('{"spokes": 3}', ["union_tag_not_found"]),
        ('{"name": "spoked", "spokes": "x", "width": "y"}', ["int_type", "float_type"]),
    ],
)
def test_the_schema_is_strict(wheels: Registry[Any], text: str, kinds: list[str]) -> None:
    assert refused(wheels, text) == kinds


def test_a_whole_number_will_do_for_a_float(wheels: Registry[Any]) -> None:
    spec = TypeAdapter(wheels.schema()).validate_json('{"name": "disc", "weight": 2}')
    assert spec.weight == 2.0 and isinstance(spec.weight, float)


def test_an_axis_with_one_entry_needs_no_union() -> None:
    registry: Registry[Any] = Registry("bike.wheel")
    registry.register("spoked")(Wheel)
    assert refused(registry, '{"name": "disc"}') == ["literal_error", "missing"]
    assert (
        TypeAdapter(registry.schema()).validate_json('{"name": "spoked", "spokes": 3}').spokes == 3
    )


def test_a_name_is_given_once(wheels: Registry[Any]) -> None:
    with pytest.raises(ConfigError, match=r"bike\.wheel: 'spoked' is already .*Wheel; register"):
        wheels.register("spoked")(Wheel)
    wheels.remove("spoked")
    assert "spoked" not in wheels
    wheels.register("spoked")(Wheel)
    assert list(wheels) == ["disc", "none", "spoked"]


def test_a_component_without_a_clear_schema_is_refused(wheels: Registry[Any]) -> None:
    def hidden(diameter: int, **rest: int) -> None: ...
    def untyped(diameter: int, *, weight=1) -> None: ...  # type: ignore[no-untyped-def]
    def nameless(diameter: int, *, name: str) -> None: ...
    def shadowing(diameter: int, *, copy: int = 1) -> None: ...

    for factory, said in [
        (hidden, r"\*\*rest hides the schema"),
        (untyped, "option weight has no type"),
        (nameless, "name is taken"),
        (shadowing, "copy is taken"),
    ]:
        with pytest.raises(TypeError, match=said):
            wheels.register("new")(factory)
    assert "new" not in wheels


def test_a_refusal_learns_the_axis_but_keeps_a_nearer_place() -> None:
    registry: Registry[Any] = Registry("bike.wheel")

    @registry.register("far")
    def far(diameter: int) -> None:
        raise ConfigError("too far")

    @registry.register("near")
    def near(diameter: int) -> None:
        raise ConfigError("too near", "bike.frame")

    for name, path in [("far", "bike.wheel"), ("near", "bike.frame")]:
        with pytest.raises(ConfigError, match=f"too {name}") as caught:
            registry.build(registry.spec(name), 622)
        assert caught.value.path == path


def test_the_registry_and_the_errors_import_no_torch() -> None:
    code = (
        "import sys, hymba_lab.registry, hymba_lab.config.yaml_file; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'lightning', 'mlflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
