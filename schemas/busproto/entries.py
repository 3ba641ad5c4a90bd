"""What each error says. Generated from schemas/errors.json by schemas/generate.py; edit that file, not this one."""

# ruff: noqa: E501  (one text, one line)

from typing import Final, NamedTuple

__all__ = ["ENTRIES", "Entry"]


class Entry(NamedTuple):
    """One error of ``errors.json``."""

    number: int
    name: str
    blame: str
    retryable: bool
    text: str
    cure: str


# fmt: off
_ROWS: Final = (
    Entry(
        1001, "zmtp-greeting", "peer", False,
        "the peer did not send a ZMTP 3 greeting: {reason}",
        "Connect with a ZeroMQ DEALER socket (libzmq 4 or newer) or a busd SDK; other protocols do not belong on this socket.",
    ),
    Entry(
        1002, "zmtp-mechanism", "peer", False,
        "security mechanism {mechanism} is not offered on this listener",
        "Use NULL on local sockets: identity comes from the kernel. CURVE is for network links.",
    ),
    Entry(
        1003, "zmtp-command", "peer", False,
        "malformed or unexpected ZMTP command: {reason}",
        "Check the peer's ZeroMQ implementation against RFC 37 (ZMTP 3.1).",
    ),
    Entry(
        1004, "zmtp-socket-type", "peer", False,
        "socket type {type} cannot talk to a broker",
        "Use a DEALER socket.",
    ),
    Entry(
        1005, "frame-too-large", "peer", False,
        "frame of {size} bytes exceeds the limit of {limit}",
        "Send less in one frame, or a reference to bulk data.",
    ),
    Entry(
        1006, "multipart-message", "peer", False,
        "a message must be one frame; the peer sent a frame with MORE set",
        "Send each batch with a single zmq_send without ZMQ_SNDMORE.",
    ),
    Entry(
        1007, "handshake-timeout", "peer", True,
        "greeting, READY and hello were not complete after {seconds} s (got as far as: {stage})",
        "Send hello at once after connecting. If the peer did, look at its CPU and scheduling.",
    ),
    Entry(
        1008, "zmtp-refused", "peer", False,
        "the peer refused the ZMTP handshake: {reason}",
        "The reason is the peer's. BUS-NNNN in it is an error of this list: bus errors NNNN.",
    ),
    Entry(
        1009, "zmtp-frame", "peer", False,
        "malformed ZMTP frame: {reason}",
        "Check the peer's ZeroMQ implementation against RFC 37 (ZMTP 3.1); does something else write to its socket?",
    ),
    Entry(
        1010, "envelope-malformed", "peer", False,
        "envelope {index} of the frame cannot be decoded: {reason}",
        "Compare the sender's bytes with schemas/vectors/ and the layout in schemas/README.md.",
    ),
    Entry(
        1011, "envelope-too-many", "peer", False,
        "a frame holds more than {limit} envelopes",
        "Start a new frame sooner.",
    ),
    Entry(
        1012, "envelope-fields", "peer", False,
        "{kind} envelope has wrong fields: {reason}",
        "Compare the sender with the field table in schemas/README.md.",
    ),
    Entry(
        1013, "headers-invalid", "peer", False,
        "headers are not acceptable: {reason}",
        "At most 32 headers, lower-case names, flat values, 8 KiB together.",
    ),
    Entry(
        1014, "kind-unexpected", "peer", False,
        "{kind} is not allowed while the session is {state}",
        "Say hello first and wait for welcome; only the broker sends welcome, origin, gap and drain to clients.",
    ),
    Entry(
        1015, "version-unsupported", "peer", False,
        "protocol version {offered} is not supported; this side speaks {supported}",
        "Upgrade the older side.",
    ),
    Entry(
        1016, "manifest-invalid", "peer", False,
        "manifest is not acceptable: {reason}",
        "component and owner are names of lower-case letters, digits, - and _; purpose is one sentence of at most 256 bytes.",
    ),
    Entry(
        1017, "frame-timeout", "peer", True,
        "a frame was not complete after {seconds} s; {held} bytes of it had come",
        "Write whole frames. If the peer did, look at its CPU and scheduling.",
    ),
    Entry(
        1018, "manifest-required", "peer", False,
        "this node lets nobody in who does not say who owns it: the manifest has no {missing}",
        "Give component, owner and purpose at connect: busclient.connect(..., component=, owner=, purpose=) or bus --owner. The operator can set manifest = 'allow'.",
    ),
    Entry(
        1019, "lease-expired", "peer", True,
        "nothing came for {seconds} s, not even the answer to a ping",
        "Answer ping with pong while the program works. If the peer did, look at its CPU, its scheduling and the network.",
    ),
    Entry(
        2001, "subject-invalid", "caller", False,
        "'{subject}' is not a subject: {reason}",
        "Tokens of a-z, 0-9, - and _ separated by dots; at most 16 tokens and 255 bytes.",
    ),
    Entry(
        2002, "pattern-invalid", "caller", False,
        "'{subject}' is not a pattern: {reason}",
        "As a subject, and * for one whole token or > as the last token for the rest.",
    ),
    Entry(
        2003, "subject-reserved", "caller", False,
        "'{subject}' is reserved: only the broker publishes and serves under $bus.",
        "Choose a subject that does not start with $.",
    ),
    Entry(
        2004, "id-in-use", "caller", False,
        "id {id} is already used by this endpoint",
        "Use each id once until its final reply has come; count upwards.",
    ),
    Entry(
        2005, "id-unknown", "caller", False,
        "this endpoint has no {what} with id {id}",
        "It may have ended already; see bus inspect.",
    ),
    Entry(
        2006, "group-conflict", "caller", False,
        "'{subject}' is served by group '{group}' ({holder}); group '{wanted}' cannot share it",
        "Serve with the same group to share the calls, or choose another subject.",
    ),
    Entry(
        2007, "payload-too-large", "caller", False,
        "payload of {size} bytes exceeds the limit of {limit}",
        "Split it, stream it, or send a reference to it.",
    ),
    Entry(
        2008, "request-invalid", "caller", False,
        "the request to {subject} is not valid: {reason}",
        "See the service's schema in schemas/asyncapi.yaml.",
    ),
    Entry(
        3001, "no-responders", "caller", True,
        "nobody serves '{subject}'",
        "Start the component that serves it; bus list shows who serves what, bus trace SUBJECT --call where a call would go.",
    ),
    Entry(
        3002, "timeout", "responder", True,
        "no final reply to '{subject}' within {seconds} s",
        "The responder may still be working on it. Raise the timeout, or look at the responder's load in bus list.",
    ),
    Entry(
        3003, "cancelled", "caller", True,
        "the call to '{subject}' was cancelled",
        "None needed: the caller asked for it.",
    ),
    Entry(
        3004, "denied", "caller", False,
        "{action} '{subject}' is denied: {reason}",
        "Ask the node's operator for a rule, or use a subject that policy lets this endpoint use.",
    ),
    Entry(
        3005, "overloaded", "capacity", True,
        "the call to '{subject}' was not delivered: {reason}",
        "Wait and try again, or start more responders in the group.",
    ),
    Entry(
        3006, "unknown", "responder", False,
        "the outcome of the call to '{subject}' is unknown: {reason}",
        "The responder may have done the work. Ask it, or repeat only what is safe to repeat.",
    ),
    Entry(
        3007, "handler-failed", "responder", False,
        "the responder failed: {reason}",
        "Look at the responder's log.",
    ),
    Entry(
        3009, "unit-unknown", "operator", True,
        "unit '{unit}' may not attach: {reason}",
        "bus guest list and bus keys list show the units that stand. A VM that was restarted or cloned is a new life: remove the unit and add it again.",
    ),
    Entry(
        3010, "right-withdrawn", "operator", False,
        "{action} '{subject}' has ended: {reason}",
        "The policy was changed, and this right is no longer in it. bus policy explain names the rule that decides now.",
    ),
    Entry(
        3011, "unit-refused", "operator", False,
        "unit '{unit}' was not added: {reason}",
        "bus guest list shows what stands: remove a unit before adding its next life, and leave the generation out to have one chosen. Anything else the reason names.",
    ),
    Entry(
        3012, "key-not-enrolled", "operator", False,
        "the key of '{unit}' was not enrolled: {reason}",
        "bus keys list shows what is enrolled, bus keys new makes a key pair, bus keys revoke ends one that stands.",
    ),
    Entry(
        3013, "disconnected", "operator", False,
        "the operator of the node cut this endpoint off: {reason}",
        "Ask whoever runs the node. There, bus list --departed says who was cut off, bus disconnect --list who is kept out, and bus disconnect --unblock lets it in again.",
    ),
    Entry(
        4001, "quota-exceeded", "capacity", True,
        "{quota}: {holder} holds {used} of {limit}{since}",
        "Release some (unsubscribe, wait for replies, read faster), or have the operator raise the quota; bus inspect shows the holder.",
    ),
    Entry(
        4002, "gap", "capacity", True,
        "{count} messages on subscription {id} were lost: {reason}",
        "Read faster, narrow the pattern, or subscribe with latest.",
    ),
    Entry(
        4003, "too-many-connections", "capacity", True,
        "connection refused: {holder} has {used} of the {limit} connections that it may have",
        "Close idle endpoints, or have the operator raise limits.endpoints and the descriptor limit.",
    ),
    Entry(
        4004, "too-fast", "capacity", True,
        "cut off: {reason}",
        "Send more slowly, or have the operator raise the rates in [tenants].",
    ),
    Entry(
        5001, "draining", "broker", True,
        "the broker is shutting down and takes no new {what}",
        "Reconnect: the SDK does so by itself when the broker is back.",
    ),
    Entry(
        5002, "internal", "broker", False,
        "the broker failed on this request: {reason}",
        "This is a bug in busd: report it with the broker's log line of the same time.",
    ),
    Entry(
        5003, "listener-closed", "broker", True,
        "the listener {address} has closed: {reason}",
        "Look at the node's log and at /statusz, and restart busd.",
    ),
    Entry(
        6001, "not-connected", "local", True,
        "not connected to {url}: {reason}",
        "Start busd (busd run), or give the right address with --bus or BUS_URL.",
    ),
    Entry(
        6002, "payload-undecodable", "peer", False,
        "payload on '{subject}' cannot be decoded as {encoding}: {reason}",
        "Read the raw bytes (message.data), or have the sender name its encoding in the datacontenttype header.",
    ),
    Entry(
        6003, "payload-unencodable", "local", False,
        "value cannot be encoded as msgpack: {reason}",
        "Payloads are None, bool, int, float, str, bytes, list and dict.",
    ),
    Entry(
        6004, "closed", "local", False,
        "this {what} is closed",
        "Open a new one.",
    ),
    Entry(
        6005, "url-invalid", "local", False,
        "'{url}' is not a bus address: {reason}",
        "Use unix:///path/to/host.sock or an absolute path, vsock://host:PORT or serial:///dev/PORT in a guest, or tcp://HOST:PORT.",
    ),
    Entry(
        6010, "key-unusable", "local", False,
        "{what} cannot be used: {reason}",
        "bus keys new NAME makes a key pair (key, BUS_KEY, --key); bus keys broker on the node prints the broker's public key (server_key, BUS_SERVER_KEY, --server-key).",
    ),
    Entry(
        6011, "key-refused", "local", False,
        "{url} does not let public key {key} in",
        "Have the node's operator enroll it: bus keys enroll NAME KEY. A key that was revoked stays out: make a new one.",
    ),
    Entry(
        6012, "server-key-wrong", "local", False,
        "{url} ended the handshake: it does not hold server key {key}, takes nobody in at present, or is no busd",
        "bus keys broker on the node prints its key, for server_key, BUS_SERVER_KEY or --server-key.",
    ),
    Entry(
        6020, "recording-unreadable", "local", False,
        "'{path}' is not a recording that this program can read: {reason}",
        "bus record PATTERN --output FILE makes one. One of a later version takes the bus command of that version.",
    ),
    Entry(
        6021, "recording-damaged", "local", False,
        "{path} is damaged at record {record} (byte {offset}): {reason}",
        "bus replay FILE --show prints all that stands before it; bus replay FILE --partial publishes that.",
    ),
    Entry(
        7001, "config-unknown-key", "operator", False,
        "unknown key '{key}'{where}; did you mean '{nearest}'?",
        "busd config show lists every key.",
    ),
    Entry(
        7002, "config-invalid", "operator", False,
        "{key}{where}: {reason}",
        "busd config explain KEY says what it takes.",
    ),
    Entry(
        7003, "run-dir-in-use", "operator", False,
        "another busd (pid {pid}) runs in {path}",
        "Stop it, or choose another directory with --run-dir.",
    ),
    Entry(
        7004, "run-dir-unusable", "operator", False,
        "run directory {path} cannot be used: {reason}",
        "It must be a directory that this user owns and others cannot write.",
    ),
    Entry(
        7005, "listen-failed", "operator", False,
        "cannot listen on {address}: {reason}",
        "Choose another address, or stop what uses it.",
    ),
    Entry(
        7006, "policy-invalid", "operator", False,
        "the policy was not taken; {count} errors: {errors}",
        "What was in effect stays in effect. bus policy lint DIR shows every error with file and line.",
    ),
    Entry(
        7010, "audit-in-use", "operator", False,
        "another busd (pid {pid}) writes the audit in {path}",
        "Stop it, or give this one a directory of its own with --audit-dir.",
    ),
    Entry(
        7011, "audit-unusable", "operator", False,
        "the audit in {path} cannot be written: {reason}",
        "The directory must be this user's alone (mode 0700, files 0600) and have room. Or choose another with --audit-dir, or none: --audit-dir off.",
    ),
    Entry(
        7020, "key-folder-unusable", "operator", False,
        "{path} cannot be used: {reason}",
        "Keys are files of this user that nobody else can read (mode 0600) in a directory of its own (0700); see soc.keys_dir.",
    ),
    Entry(
        7021, "curve-unavailable", "operator", False,
        "CURVE cannot be offered: {reason}",
        "Install pyzmq's own wheel, which holds libzmq 4.3.5 with CURVE (pip install --only-binary pyzmq pyzmq), or set soc.listen to off.",
    ),
    Entry(
        7030, "units-file-unwritable", "operator", True,
        "the guests cannot be kept in {path}: {reason}",
        "Make room in the run directory, or make it writable for busd: a guest that is not kept there would be lost when busd is restarted.",
    ),
    Entry(
        8001, "component-unknown", "caller", False,
        "there is no component '{component}'; the nearest is '{nearest}'",
        "bus component list shows those that this node knows. Another one is started by its name in the components key, or by a file NAME.toml in component.dir that names its source.",
    ),
    Entry(
        8002, "component-not-there", "operator", True,
        "no runner of component '{component}' ({source}) stands by at {placement}",
        "Run there: busd component run SOURCE --standby, with the --bus that leads to this node.",
    ),
    Entry(
        8003, "component-state", "caller", True,
        "{verb} is not possible while the component is {state}",
        "bus component inspect NAME shows its state. Wait for what is under way, or start it first.",
    ),
    Entry(
        8004, "component-state-too-large", "responder", False,
        "the state of component '{component}' has {size} bytes; {limit} can be handed over",
        "Have hand_over() return less: what can be made again, or read from where both can reach it, does not belong into it.",
    ),
    Entry(
        8005, "handover-failed", "responder", True,
        "the hand-over of component '{component}' failed at {step}: {reason}; {consequence}",
        "bus component logs NAME shows what the new one said. Put it right and repeat the hand-over.",
    ),
    Entry(
        8006, "component-invalid", "operator", False,
        "{source} is not a component: {reason}",
        "A component is named module:Class, or by the name of one that is shipped; its class has a manifest, and each operation is a method with annotations.",
    ),
    Entry(
        8007, "component-stopped", "responder", False,
        "component '{component}' was cut off: {reason}",
        "bus component inspect NAME and bus component logs NAME show what it did; bus component start NAME begins anew. Its budget is in its manifest and in NAME.toml.",
    ),
    Entry(
        9001, "deletion-root-unknown", "caller", False,
        "there is no deletion root '{root}' for this caller; the nearest is '{nearest}'",
        "The roots are set by the node's operator, each with the tenants that may use it. Name one of them and give the path below it.",
    ),
    Entry(
        9002, "deletion-refused", "caller", False,
        "{path} is not deleted: {reason}",
        "Give the path below the root as it is, without links, '.', '..' or a leading '/', and deep enough for the root. Nothing was touched.",
    ),
    Entry(
        9003, "deletion-changed", "caller", True,
        "{path} is no longer what it was: {reason}",
        "Look at it again (a dry run makes a new plan) and repeat. What is there now was not deleted.",
    ),
    Entry(
        9004, "deletion-limit", "caller", False,
        "{what}: {used} of {limit}",
        "Delete less at a time, or raise the limit of the job; the limit of the root is its operator's.",
    ),
    Entry(
        9005, "deletion-job-unknown", "caller", False,
        "there is no deletion job '{job}'",
        "List the jobs to see those that this node knows. A job that has ended is forgotten after a while, and others' jobs are not shown.",
    ),
    Entry(
        9006, "deletion-job-state", "caller", False,
        "{verb} is not possible while deletion job '{job}' is {state}",
        "Look at the job's report. A job that has ended stays as it ended; what it left can be given to a new one.",
    ),
    Entry(
        9007, "deletion-backlog", "capacity", True,
        "{used} deletion jobs of '{tenant}' wait already; {limit} may",
        "Wait until some of them are done, or cancel those that need not be. Whole directories are cheaper than their parts.",
    ),
    Entry(
        9008, "deletion-failed", "operator", True,
        "{path} could not be deleted: {reason}",
        "The job's report names what stayed and why. Put that right on the file system and repeat: what is gone already is not looked for.",
    ),
    Entry(
        9101, "cache-key-missing", "operator", False,
        "there is no usable root key in {where}: {reason}",
        "A root key is 32 random bytes: raw, as 64 hex digits or in base64, in a file that only this user can read (mode 0400 or 0600), in a systemd credential, or in an environment variable. head -c 32 /dev/urandom makes one.",
    ),
    Entry(
        9102, "cache-value-size", "caller", False,
        "a value of {size} bytes cannot be cached; {limit} can",
        "Cache less of it, in parts of their own names, or cache where it is. The limit may be lower for a tenant than the 16 MiB that no value exceeds.",
    ),
    Entry(
        9103, "cache-key-size", "caller", False,
        "a name of {size} bytes cannot be cached under; {limit} can",
        "Use a shorter name, or a digest of it. An empty name is none.",
    ),
    Entry(
        9104, "cache-entries", "capacity", False,
        "{what}: {used} of {limit}",
        "The entry alone is more than the tenant's share holds, whatever is evicted. Cache less, or have the node's operator raise the share.",
    ),
    Entry(
        9105, "cache-keys-gone", "caller", True,
        "the keys of tenant '{tenant}' were destroyed while they were used",
        "Ask the cache for the tenant again: it has new keys, and nothing of what was cached before.",
    ),
    Entry(
        9106, "cache-conflict", "caller", True,
        "nothing was stored: the entry has changed, or it is not there",
        "Get the entry with its generation again, decide anew, and repeat with that generation.",
    ),
    Entry(
        9107, "cache-tenant-unknown", "caller", False,
        "there is no cache for tenant '{tenant}'",
        "Tenants are set by the node's operator, each with its share of the cache. Who asks is what the broker proved, not what a request says.",
    ),
)
# fmt: on

ENTRIES: Final[dict[int, Entry]] = {entry.number: entry for entry in _ROWS}
