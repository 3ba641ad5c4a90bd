"""What the node's configuration says of its components, and how their services are reached."""

import os
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from busd.components.supervisor.settings import Settings, read_settings
from busd.core.introspection import Request
from busd.core.principal import Principal
from busd.edge.inside import Service
from busd.ops.explain import changed
from busd.ops.keys import Config
from busd.ops.policyfolder import distrust
from busproto.errors import BusError, Code
from busproto.subjects import check_name

__all__ = ["check_components", "components_folder", "read_component", "with_principal"]

PlainService = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""A service that takes the caller's map, and asks nothing about the caller."""


def components_folder(config: Config) -> Path | None:
    """``component.dir``; None if it is at its default place and not there.

    Raises BusError CONFIG_INVALID for a folder that was set and is not there, or that is not believed.
    """
    folder = config.component.dir
    if not os.path.lexists(folder) and "component.dir" not in changed(config):
        return None
    _check(folder, stat.S_ISDIR, "folder")
    return folder


def read_component(config: Config, name: str) -> Settings:
    """The settings of component ``name`` as they are on disk now.

    Raises BusError CONFIG_INVALID, which names file and key, or the nearest name if there is no such component.
    """
    folder = components_folder(config)
    is_name = check_name(name) is None  # anybody whom policy lets may ask for any
    if is_name and folder is not None and os.path.lexists(file := folder / f"{name}.toml"):
        # It says which code the node runs, as the node's user: what others can write decides nothing here.
        _check(file, stat.S_ISREG, "regular file")
    return read_settings(name, folder)


def check_components(config: Config) -> None:
    """Read the settings of every configured component. Raises BusError CONFIG_INVALID, as `read_component`."""
    components_folder(config)
    for name in config.components:
        read_component(config, name)


def with_principal(services: Mapping[str, PlainService]) -> dict[str, Service]:
    """``services`` as the broker's own endpoint calls them. Policy has decided whether the caller may."""

    def adapt(service: PlainService) -> Service:
        async def serve(request: Request, caller: Principal) -> dict[str, Any]:
            return await service(request.fields)

        return serve

    return {subject: adapt(service) for subject, service in services.items()}


def _check(path: Path, is_right: Callable[[int], bool], kind: str) -> None:
    try:
        found = path.stat()
        reason = distrust(found) if is_right(found.st_mode) else f"it is no {kind}"
    except OSError as error:
        reason = f"it cannot be read: {error.strerror or error}"
    if reason:
        raise BusError(Code.CONFIG_INVALID, key="component.dir", where="", reason=f"{path}: {reason}")
