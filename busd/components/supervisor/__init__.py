"""The supervisor of components: starts and watches them, starts them again, replaces and moves them."""

from busd.components.supervisor.broker import Broker
from busd.components.supervisor.settings import Settings, read_settings
from busd.components.supervisor.statistics import ComponentStatistics, OperationTotals
from busd.components.supervisor.supervisor import Supervisor

__all__ = ["Broker", "ComponentStatistics", "OperationTotals", "Settings", "Supervisor", "read_settings"]
