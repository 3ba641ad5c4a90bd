"""Whose request it is that a component carries out: what an audit says of it."""

from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from busd.components.model import Caller

__all__ = ["Who"]


class Who(NamedTuple):
    """Whose request it is, as the broker proved it; or of this process itself."""

    boundary: str
    tenant: str
    unit: str
    endpoint: str

    @classmethod
    def behind(cls, caller: "Caller") -> Self:
        """Whoever ``caller`` acts for, if it does: its rights are the ones that count."""
        while caller.on_behalf_of is not None:
            caller = caller.on_behalf_of
        return cls(caller.boundary, caller.tenant, caller.unit, caller.endpoint)
