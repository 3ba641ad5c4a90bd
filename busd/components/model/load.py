"""A component's class by its name."""

import difflib
import importlib
import inspect
from collections.abc import Iterable

from busd.components.model.component import Component
from busd.components.model.operation import compile_operations
from busd.components.shipped import SHIPPED
from busproto.errors import BusError, Code

__all__ = ["load", "source_of"]


def load(source: str) -> type[Component]:
    """The class that ``source`` names: ``module:Class``, or the name of a component that is shipped.

    Raises BusError:
        8001: there is no shipped component of that name; says which comes nearest.
        8006: there is no such module or class, it is not a component, or its class shows a mistake. The text says it.
    """
    if ":" not in source:
        if source not in SHIPPED:
            nearest = difflib.get_close_matches(source, SHIPPED, n=1, cutoff=0.0)[0]
            raise BusError(Code.COMPONENT_UNKNOWN, component=source, nearest=nearest)
        source = SHIPPED[source]
    module, _, name = source.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise _invalid(source, "a component is named module:Class, or by the name of one that is shipped")
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            raise _invalid(source, f"there is no module '{error.name}' on the path") from error
        raise _invalid(source, f"module '{module}' cannot be imported: {error}") from error
    except (Exception, SystemExit) as error:
        raise _invalid(source, f"module '{module}' cannot be imported: {type(error).__name__}: {error}") from error
    found = getattr(imported, name, None)
    if found is None:
        there = ", ".join(sorted(_components(vars(imported).values()))) or "none"
        raise _invalid(source, f"module '{module}' has no '{name}'; its components: {there}")
    if not inspect.isclass(found) or not issubclass(found, Component) or found is Component:
        raise _invalid(source, f"'{name}' is not a subclass of Component")
    try:
        compile_operations(found)
    except TypeError as error:
        raise _invalid(source, str(error)) from error
    return found


def source_of(component: type[Component]) -> str:
    """``module:Class`` of a component's class."""
    return f"{component.__module__}:{component.__qualname__}"


def _components(values: Iterable[object]) -> list[str]:
    return [
        each.__name__
        for each in values
        if inspect.isclass(each) and issubclass(each, Component) and each is not Component
    ]


def _invalid(source: str, reason: str) -> BusError:
    return BusError(Code.COMPONENT_INVALID, source=source, reason=reason)
