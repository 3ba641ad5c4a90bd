"""Which version of busd this is."""


def bus_version() -> str:
    """The version of the installed distribution; ``source`` where it runs from a checkout that is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("busd")
    except PackageNotFoundError:
        return "source"


def version_text() -> str:
    """What ``bus --version`` prints."""
    from platform import python_implementation, python_version

    from busproto.envelope import VERSION

    return f"bus {bus_version()} (protocol {VERSION}, {python_implementation()} {python_version()})"
