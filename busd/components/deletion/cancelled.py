"""How a thread that works on a job learns that the job is to end."""

__all__ = ["Cancelled"]


class Cancelled(Exception):  # noqa: N818 - it is an outcome, not an error
    """The job is to stop. Raised where a batch would begin; what was removed until then stays removed."""
