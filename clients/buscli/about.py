"""Which version of busd this is."""


def bus_version() -> str:
    """The version of the installed distribution; ``source`` where it runs from a checkout that is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("busd")
    except PackageNotFoundError:
        return "source"


def version_text() -> str:
    """What ``bus --version`` prints: all that a bug report needs. Loads libzmq."""
    from importlib.metadata import version
    from platform import python_implementation, python_version

    import zmq

    from busproto.envelope import VERSION

    python = f"{python_implementation()} {python_version()}"
    rest = f"asyncio, libzmq {zmq.zmq_version()}, msgpack {version('msgpack')}"
    return f"bus {bus_version()} (protocol {VERSION}, {python}, {rest})"
