"""Name -> component, with the constructor's signature as the schema.

One rule carries the whole package: a component's *positional* parameters are facts, given by
the program; its *keyword-only* parameters are options, given by the YAML. An entry may be a
class or a function. This module knows neither torch nor any component.
"""

import inspect
import sys
import traceback
import typing
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, create_model

from hymba_lab.errors import ConfigError, UserError

T = TypeVar("T")
Factory = TypeVar("Factory", bound=Callable[..., Any])


class Later:
    """Marks an option that came when there were results already: `Annotated[bool, LATER] = False`.

    At its default it takes no part in a digest, so that runs made before it keep their identity.
    The default must therefore do what the code did before the option came.
    """


LATER = Later()


class FromFile:
    """Marks an option that names files: relative to the YAML file that names them.

    `unless` are words that name none.
    """

    def __init__(self, *unless: str) -> None:
        self.unless = unless


FROM_FILE = FromFile()


class Located(str):
    """A path as it is opened; `written` is what `mark` (file:line:column) says, from `folder`."""

    written: str
    mark: str
    folder: str


def at(path: str) -> str:
    """Return `file:line:column: ` of a path that a file names, nothing for another one."""
    return f"{path.mark}: " if isinstance(path, Located) else ""


class Section(BaseModel):
    """A frozen part of a configuration: unknown keys, wrong types, nan and inf are refused."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )

    def canonical(self) -> dict[str, Any]:
        """Return plain JSON data without the options marked `LATER` that stand at their default."""
        data = self.model_dump(mode="json", serialize_as_any=True)
        _leave_out_later(self, data)
        return data


class Spec(Section):
    """A component asked for by name, every option filled in."""

    name: str

    _located: dict[str, Any] = PrivateAttr(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """Return the options without the name, as the constructor takes them, paths located."""
        written = {key: getattr(self, key) for key in type(self).model_fields if key != "name"}
        return written | self._located

    def locate(self, options: dict[str, Any]) -> None:
        """Say how the options that name files are opened; as data they stay as written."""
        self._located = options


class Registry(Generic[T]):
    """The named choices along one axis, e.g. every way to fuse two branches."""

    def __init__(self, path: str) -> None:
        """`path` is where the choice stands in a configuration, e.g. `model.fusion`."""
        self.path = path
        self._entries: dict[str, Callable[..., T]] = {}
        self._specs: dict[str, type[Spec]] = {}

    def register(self, name: str) -> Callable[[Factory], Factory]:
        """Add a class or function under `name`; a name is given once."""

        def add(factory: Factory) -> Factory:
            if name in self._entries:
                taken = self._entries[name]
                raise ConfigError(
                    f"{self.path}: {name!r} is already {taken.__module__}.{taken.__qualname__}; "
                    "register the new component under another name."
                )
            self._specs[name] = _spec_type(name, factory)
            self._entries[name] = factory
            return factory

        return add

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def entry(self, name: str) -> Callable[..., T]:
        """Return the class or function registered under `name`."""
        return self._entries[name]

    def remove(self, name: str) -> None:
        """Forget an entry, e.g. one that a plugin's newer version replaces."""
        del self._entries[name], self._specs[name]

    def spec_type(self, name: str) -> type[Spec]:
        """Return the model of the options that `name` takes."""
        return self._specs[name]

    def options(self, name: str) -> list[str]:
        """Return the names of the options that `name` takes."""
        return [key for key in self._specs[name].model_fields if key != "name"]

    def schema(self, names: Iterable[str] | None = None) -> Any:
        """Return the type that validates one choice: a union told apart by `name`.

        `names` limits the choice; None = every entry.
        """
        specs = tuple(self._specs[name] for name in (self if names is None else names))
        if len(specs) == 1:
            return specs[0]
        return Annotated[typing.Union[specs], Field(discriminator="name")]  # noqa: UP007

    def spec(self, name: str, **options: Any) -> Spec:
        """Return a validated spec, for use from Python."""
        return self._specs[name](name=name, **options)

    def build(self, spec: Spec, *facts: Any) -> T:
        """Construct the component that `spec` names from the program's `facts`.

        Raises `ConfigError` with this axis in front when the component refuses the combination,
        and when one from elsewhere fails.
        """
        factory = self._entries[spec.name]
        try:
            return factory(*facts, **spec.options())
        except ConfigError as error:
            error.path = error.path or self.path
            raise
        except (UserError, KeyboardInterrupt):
            raise
        except (Exception, SystemExit) as error:
            if factory.__module__.startswith("hymba_lab."):
                raise
            raise ConfigError(
                f"{factory.__qualname__}, given {_told(facts)}, raised {type(error).__name__}: "
                f"{error}{_line(factory, error)}.",
                self.path,
            ) from error


@lru_cache(maxsize=1024)
def _later_options(kind: type[Section]) -> dict[str, Any]:
    """Return the fields of a section that are marked `LATER`, by name."""
    return {
        name: field
        for name, field in kind.model_fields.items()
        if any(mark is LATER for mark in field.metadata)
    }


def _leave_out_later(value: Any, data: Any) -> None:
    """Drop from `data`, what `value` looks like as JSON, the later options at their default."""
    if isinstance(value, Section):
        later = _later_options(type(value))
        for name in type(value).model_fields:
            own = getattr(value, name)
            if name in later and own == later[name].get_default(call_default_factory=True):
                del data[name]
            else:
                _leave_out_later(own, data[name])
    elif isinstance(value, dict):
        for key, own in value.items():
            _leave_out_later(own, data[key])
    elif isinstance(value, list | tuple):
        for own, written in zip(value, data, strict=True):
            _leave_out_later(own, written)


def _told(facts: tuple[Any, ...]) -> str:
    """Return the facts of a component for a message."""
    return ", ".join(repr(fact)[:40] for fact in facts) or "nothing"


def _line(factory: Callable[..., Any], error: BaseException) -> str:
    """Return the last line of the component's own file that the error passed."""
    file = getattr(sys.modules.get(factory.__module__), "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if frame.filename == file]  # fmt: skip
    return f" ({file}:{lines[-1]})" if lines else ""


def _spec_type(name: str, factory: Callable[..., Any]) -> type[Spec]:
    """Return the keyword-only parameters of `factory` as a model that refuses unknown keys."""
    annotations = typing.get_type_hints(
        factory.__init__ if inspect.isclass(factory) else factory, include_extras=True
    )
    fields: dict[str, Any] = {"name": (Literal[name], ...)}
    for parameter in inspect.signature(factory).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            raise TypeError(f"{factory.__qualname__}: **{parameter.name} hides the schema")
        if parameter.kind is parameter.KEYWORD_ONLY:
            if parameter.name not in annotations:
                raise TypeError(f"{factory.__qualname__}: option {parameter.name} has no type")
            if parameter.name == "name" or hasattr(Spec, parameter.name):
                raise TypeError(f"{factory.__qualname__}: {parameter.name} is taken; rename it")
            required = parameter.default is inspect.Parameter.empty
            fields[parameter.name] = (
                annotations[parameter.name],
                ... if required else parameter.default,
            )
    title = "".join(part.title() for part in name.split("_"))
    return create_model(f"{title}Spec", __base__=Spec, **fields)
