"""``bus cache stats``, ``tenants``, ``rotate``, ``shred`` and ``clear``: a tenant's whole cache, and its keys."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from buscli import cachehandle
from buscli.asking import agreed, somebody_there
from buscli.cachefigures import Figures
from buscli.cachehandle import wrong
from buscli.deletionwords import count
from buscli.exits import Exit
from buscli.output import Output, printable
from buscli.units import binary_size

__all__ = ["Share"]


class Share:
    """One command line about a tenant's cache. Raises UsageError if it would have to ask, and nobody is there."""

    def __init__(self, args: Namespace) -> None:
        self._args = args
        self._output = Output.standard(force_json=args.json, no_color=args.no_color)
        self._asks = args.action in ("shred", "clear") and not args.yes
        if self._asks and not somebody_there():
            raise wrong(
                args,
                "nobody can be asked here: standard input or error is no terminal",
                "--yes, to do it without being asked",
                "bus cache stats, to see what would be lost",
            )

    async def run(self) -> int:
        args, output = self._args, self._output
        async with cachehandle.on_node(args, output) as handle:
            if self._asks and not await agreed(output, await self._question(handle)):
                output.note("nothing was done")
                return Exit.CANCELLED
            match args.action:
                case "stats":
                    (await self._figures(handle)).show(output)
                case "tenants":
                    self._show_tenants(await handle.tenants())
                case "rotate":
                    epoch = await handle.rotate(**self._tenant)
                    self._say({"epoch": epoch}, f"{self._whose}: key {epoch} seals from now on; nothing is lost")
                case "clear":
                    dropped = await handle.clear()
                    self._say({"dropped": dropped}, f"{count(dropped, 'entry was', 'entries were')} dropped")
                case _:
                    return await self._shred(handle)
        return Exit.OK

    async def _shred(self, handle: Any) -> int:
        args = self._args
        if args.epoch is None:
            done = await handle.shred(**self._tenant)
            became = "all keys are destroyed, and nothing can be read any more" if done else "there was nothing"
            self._say({"shredded": done}, f"{self._whose}: {became}")
            return Exit.OK
        if not await handle.shred(**self._tenant, epoch=args.epoch):
            raise wrong(args, f"there is no key {args.epoch}", "bus cache stats", exit=Exit.NO_SUCH)
        said = f"{self._whose}: key {args.epoch} is destroyed, and what it sealed cannot be read any more"
        self._say({"shredded": True, "epoch": args.epoch}, said)
        return Exit.OK

    async def _figures(self, handle: Any) -> Figures:
        return Figures(await handle.stats(**self._tenant))

    async def _question(self, handle: Any) -> str:
        """What is lost, and whether that is to be."""
        args = self._args
        figures = await self._figures(handle)
        holds, whose = figures.holds(), f"tenant {figures.tenant}"
        if args.action == "clear":
            return f"Drop {holds} of {whose}? [y/N] "
        if args.epoch is None:
            return f"Destroy all keys of {whose}, and with them {holds}, for ever? [y/N] "
        return f"Destroy key {args.epoch} of {whose}, and with it what it sealed of {holds}, for ever? [y/N] "

    def _show_tenants(self, shares: Sequence[Any]) -> None:
        import msgspec

        output = self._output
        if not output.human:
            for share in shares:
                output.record(msgspec.to_builtins(share))
            return
        if not shares:
            output.line("no tenant has a share yet: each gets one with its first value")
            return
        output.table(
            ("tenant", "entries", "bytes", "of", "who has to go", "largest value"),
            [
                (
                    share.tenant,
                    f"{share.entries:,}",
                    binary_size(share.bytes),
                    binary_size(share.quota),
                    share.policy,
                    binary_size(share.value_limit),
                )
                for share in shares
            ],
        )

    def _say(self, record: dict[str, Any], text: str) -> None:
        if self._output.human:
            self._output.line(printable(text))
        else:
            self._output.record(record)

    @property
    def _tenant(self) -> dict[str, str]:
        tenant = getattr(self._args, "tenant", None)
        return {} if tenant is None else {"tenant": tenant}

    @property
    def _whose(self) -> str:
        return f"tenant {self._tenant['tenant']}" if self._tenant else "your tenant"
