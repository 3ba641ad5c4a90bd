"""``bus cache get``, ``set``, ``del`` and ``touch``: entries, by their names."""

import math
import os
from argparse import Namespace
from typing import Any

from buscli import body, cachehandle, cachevalue
from buscli.cachehandle import named, wrong
from buscli.exits import Exit
from buscli.output import Output
from buscli.units import binary_size, duration
from busproto.errors import BusError, Code
from busproto.limits import PAYLOAD_BYTES

__all__ = ["Entries"]


class Entries:
    """One command line about entries. Raises UsageError for one that contradicts itself."""

    def __init__(self, args: Namespace) -> None:
        self._args = args
        self._output = Output.standard(force_json=args.json, no_color=args.no_color)
        self._value = b""
        if args.action == "get" and args.raw and args.json:
            raise wrong(args, "--raw and --json are two forms")
        if args.action == "set":
            self._check()
            self._value = self._read()

    def _check(self) -> None:
        args = self._args
        when = [name for name in ("add", "replace", "expect") if getattr(args, name)]
        if len(when) > 1:
            raise wrong(args, f"--{when[0]} and --{when[1]} are two conditions")
        if args.value is not None and args.file is not None:
            raise wrong(args, "VALUE and --file are two values")

    def _read(self) -> bytes:
        """The value that is to be stored. Raises UsageError for one that no cache takes, OSError for a file."""
        args = self._args
        of = Namespace(body=args.value, file=args.file, raw=True, command_name=args.command_name)
        try:
            return body.read(of, otherwise_stdin=True)
        except BusError as error:
            if error.code != Code.PAYLOAD_TOO_LARGE:
                raise
        size = f"has {os.stat(args.file).st_size:,} bytes" if args.file not in (None, "-") else "is longer"
        said = f"the value {size}; at most {PAYLOAD_BYTES:,} bytes can be cached"
        raise wrong(args, said, "cache less of it, or in parts of their own names", exit=Exit.TOO_LARGE)

    async def run(self) -> int:
        async with cachehandle.on_node(self._args, self._output) as handle:
            match self._args.action:
                case "get":
                    return await self._get(handle)
                case "set":
                    return await self._set(handle)
                case "del":
                    return await self._delete(handle)
                case _:
                    return await self._touch(handle)

    # -- get ----------------------------------------------------------------------------------------------------------

    async def _get(self, handle: Any) -> int:
        args, output = self._args, self._output
        entry = await handle.get(os.fsencode(args.name))
        if not entry.found:
            if args.json:
                output.record({"name": self._name, "found": False})
            raise self._missing()
        if args.json:
            value = cachevalue.jsonable(entry.value)
            output.record(
                {"name": self._name, "found": True, "value": value, "generation": entry.generation, "ttl": entry.ttl}
            )
        elif args.raw or not output.human:
            output.raw(entry.value)
        else:
            for line in cachevalue.shown(entry.value):
                output.line(line)
            output.note(f"-- {binary_size(len(entry.value))}, generation {entry.generation}, {_left(entry.ttl)}")
        return Exit.OK

    @property
    def _name(self) -> Any:
        return cachevalue.jsonable(os.fsencode(self._args.name))

    def _missing(self) -> Exception:
        said = f"nothing is there under {named(self._args.name)}"
        return wrong(self._args, said, "bus cache set NAME VALUE", exit=Exit.MISSING)

    # -- set, touch, del ----------------------------------------------------------------------------------------------

    async def _set(self, handle: Any) -> int:
        args, output = self._args, self._output
        name = os.fsencode(args.name)
        given: dict[str, Any] = {"value": self._value, "ttl": args.ttl}
        done, generation = True, None
        try:
            if args.expect is not None:
                generation = await handle.cas(name, **given, generation=args.expect)
            elif args.add or args.replace:
                done = await (handle.add if args.add else handle.replace)(name, **given)
            else:
                generation = await handle.set(name, **given)
        except BusError as error:
            if error.code != Code.PAYLOAD_TOO_LARGE:
                raise
            raise wrong(args, f"name and value do not fit in one message: {error}", exit=Exit.TOO_LARGE) from None
        if not done and args.replace:
            raise self._missing()
        if not done:
            said = f"something is there already under {named(args.name)}"
            raise wrong(args, said, "bus cache get NAME", "bus cache set NAME VALUE --replace", exit=Exit.CONFLICT)
        if not output.human:
            known = {} if generation is None else {"generation": generation}
            output.record({"name": self._name, "stored": True, **known})
        else:
            said = f", generation {generation}" if generation is not None else ""
            output.line(f"{named(args.name)} is stored: {binary_size(len(self._value))}{said}")
        return Exit.OK

    async def _touch(self, handle: Any) -> int:
        args, output = self._args, self._output
        if not await handle.touch(os.fsencode(args.name), ttl=args.ttl):
            raise self._missing()
        if not output.human:
            output.record({"name": self._name, "touched": True})
        else:
            output.line(f"{named(args.name)} lives {_from_now(args.ttl)}")
        return Exit.OK

    async def _delete(self, handle: Any) -> int:
        output = self._output
        missing = []
        for typed in self._args.name:
            name = os.fsencode(typed)
            deleted = await handle.delete(name)
            if not deleted:
                missing.append(typed)
            if not output.human:
                output.record({"name": cachevalue.jsonable(name), "deleted": deleted})
            elif deleted:
                output.line(f"{named(typed)} is taken out")
        for typed in missing:
            output.note(f"bus cache del: nothing is there under {named(typed)}")
        return Exit.MISSING if missing else Exit.OK


def _left(ttl: float | None) -> str:
    return "does not expire" if ttl is None else f"{duration(ttl)} left"


def _from_now(ttl: float | None) -> str:
    if ttl is None:
        return "anew, for as long as the tenant's settings say"
    return "for ever" if math.isinf(ttl) else f"for {duration(ttl)} from now on"
