"""What around it the ``bus`` command looks at: environment variables and files, as data for its manual pages."""

from typing import Final

VARIABLES: Final[tuple[tuple[str, str], ...]] = (
    ("BUS_URL", "Address of the bus where --bus does not give one."),
    ("BUS_KEY", "Of tcp://: this client's secret key file where --key does not name one."),
    ("BUS_SERVER_KEY", "Of tcp://: the broker's public key, or its file, where --server-key does not give one."),
    ("NO_COLOR", "If it is not empty, no colour on a terminal."),
    ("TERM", "dumb: no colour on a terminal."),
    ("COLUMNS", "How wide help and tables are, in characters; otherwise as wide as the terminal."),
    (
        "XDG_RUNTIME_DIR",
        "Where busd makes its socket for a user other than root: in busd below it, or in /tmp/busd-UID if it is unset.",
    ),
    ("XDG_STATE_HOME", "Where bus audit finds the log of a user's own node: in busd/audit below it (~/.local/state)."),
    (
        "XDG_CONFIG_HOME",
        "Where bus policy finds the policy of a user's own node: in busd/policy.d below it (~/.config).",
    ),
    ("HOME", "Where the two above are if they are unset."),
    ("CREDENTIALS_DIRECTORY", "Of a service of systemd: keys in this folder may be readable by their group."),
    ("USERNAME", "On Windows: who the node is told is asking."),
    (
        "BUS_COMPONENTS",
        "Of programs that use components: which of them run in the program (here) and which on the bus, such as "
        "cache=here,*=bus. The commands themselves do not look at it.",
    ),
    (
        "SOURCE_DATE_EPOCH",
        "Of bus man: the date of the pages, in seconds since 1970, for builds that can be repeated.",
    ),
)
"""Environment variables, and what each means."""

GIVEN: Final[tuple[tuple[str, str], ...]] = (
    ("BUS_SUBJECT", "To the command of bus serve --exec: the subject of the call."),
    ("BUS_CALLER", "To the same: the caller's endpoint."),
    ("BUS_HEADER_NAME", "To the same: the call's header called NAME, for each that it has. Callers choose its value."),
)
"""Environment variables that the command sets for what it starts."""

FILES: Final[tuple[tuple[str, str], ...]] = (
    ("$XDG_RUNTIME_DIR/busd/host.sock", "The socket that busd makes for a user; /tmp/busd-UID/host.sock without it."),
    ("/run/busd/host.sock", "The socket of the machine's busd, taken where a user has none."),
    ("/etc/busd/policy.d", "The machine's policy, which bus policy reads."),
    ("/var/lib/busd/audit", "The machine's audit log, which bus audit reads."),
)
"""Files, and what each is."""
