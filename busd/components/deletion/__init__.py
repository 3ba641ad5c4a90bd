"""Deletion: removes large trees below roots that the operator allows, without harm to whoever shares the disk.

`remove_tree` does it here and now, with the caller's rights; `Jobs` runs jobs of many; `component.Deletion` puts them
on the bus.
"""

from busd.components.deletion.filters import Filter
from busd.components.deletion.jobs import Jobs
from busd.components.deletion.local import Unfinished, remove_tree
from busd.components.deletion.progress import Progress, Report
from busd.components.deletion.request import JobRequest
from busd.components.deletion.roots import Roots, RootSettings

__all__ = ["Filter", "JobRequest", "Jobs", "Progress", "Report", "RootSettings", "Roots", "Unfinished", "remove_tree"]
