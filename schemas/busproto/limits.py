"""Every bound of the protocol, each with its reason. A decoder refuses before it allocates.

These are the protocol's ceilings: no conforming peer exceeds them and no configuration raises them. A broker may
announce smaller ones in its ``welcome``.
"""

from typing import Final

MIB: Final = 1 << 20

# -- ZMTP -------------------------------------------------------------------------------------------------------------

ZMTP_COMMAND_BYTES: Final = 4096
"""Handshake command (READY, ERROR) with its properties. libzmq's own READY is below 100 bytes."""

ZMTP_PROPERTIES: Final = 16
"""Properties in READY. ZMTP defines three; libzmq sends two."""

ZMTP_PING_CONTEXT_BYTES: Final = 16
"""ZMTP 3.1 (RFC 37): "PING context ... 0 to 16 octets"."""

HANDSHAKE_SECONDS: Final = 2.0
"""Greeting, READY and hello together. nats-server's auth timeout; libzmq's default of 30 s lets idle peers pile up."""

# -- frames and envelopes ---------------------------------------------------------------------------------------------

PAYLOAD_BYTES: Final = 16 * MIB
"""One payload. The largest value that the cache component takes; larger things travel as references."""

FRAME_BYTES: Final = PAYLOAD_BYTES + 64 * 1024
"""One ZeroMQ frame: the largest payload with its envelope, or a batch of smaller ones."""

BATCH_BYTES: Final = 64 * 1024
"""What a sender packs into one frame before it starts the next (unless one envelope alone is larger)."""

ENVELOPES_PER_FRAME: Final = 16384
"""Envelopes in one frame. A batch of the smallest envelopes (4 bytes) in BATCH_BYTES."""

ENVELOPE_FIELDS: Final = 15
"""Fields in one envelope's array, the kind among them: as many as a one-byte array header can say."""

VALUE_BYTES: Final = 4096
"""One string or binary inside headers, manifest and options. The payload has its own bound."""

HEADERS: Final = 32
"""Header entries in one envelope. CloudEvents has eight attributes, tracing two."""

HEADER_NAME_BYTES: Final = 64
"""One header's name. CloudEvents asks for 20 or fewer."""

HEADERS_BYTES: Final = 8192
"""All names and values of one envelope's headers. nginx and Tomcat bound an HTTP header block at 8 KiB."""

CONTROL_ITEMS: Final = 256
"""Entries in one list or map of a manifest, options or error fields."""

CONTROL_DEPTH: Final = 4
"""Nesting inside a manifest, options or error fields."""

CONTROL_VALUES: Final = 1024
"""Values in one manifest, options or error body, all levels together: lists of maps of lists would multiply."""

STRUCTURE_BYTES: Final = 2 * BATCH_BYTES
"""What one frame may hold besides the strings and binaries that are its envelopes' own fields. An empty list takes one
byte of a frame and 64 of memory: 16 MiB of them took 1 GiB and 6 s. A conforming sender stays below BATCH_BYTES."""

LARGE_FRAME_BYTES: Final = BATCH_BYTES
"""Frames above this are decoded without copying payloads; what is not payload must fit in one window this long."""

PAYLOAD_ITEMS: Final = 1 << 18
"""Entries in one list or map of a decoded payload. msgpack makes room for as many as a header claims, at each level."""

# -- subjects ---------------------------------------------------------------------------------------------------------

SUBJECT_BYTES: Final = 255
"""One subject or pattern. GHSA-qq65-x72m-9wr8: unbounded topics overflowed libzmq's recursive tree."""

SUBJECT_TOKENS: Final = 16
"""Tokens in one subject or pattern: bounds the matcher's work per message."""

# -- names ------------------------------------------------------------------------------------------------------------

NAME_BYTES: Final = 64
"""Component, owner, group, tenant and unit names."""

PURPOSE_BYTES: Final = 256
"""A manifest's purpose: one sentence."""

MANIFEST_SUBJECTS: Final = 64
"""Subjects that a manifest says it serves, publishes or needs."""

# -- numbers ----------------------------------------------------------------------------------------------------------

ID_FIRST: Final = 2**16
"""Where our own ids begin: from here on msgpack writes five bytes, in which the broker replaces an id in place."""

ID_MAX: Final = 2**32 - 1
"""Request ids are unsigned 32-bit integers, from 1: wide enough not to wrap within a call's life."""

TIMEOUT_MS_MAX: Final = 24 * 3600 * 1000
"""A call's longest life. What takes longer is a job with an id of its own."""

# -- serial lines -----------------------------------------------------------------------------------------------------

SERIAL_PIECE_BYTES: Final = 4096
"""Data in one record on a serial line: what damage costs, and what one side must be able to hold."""

SERIAL_TOKEN_BYTES: Final = 8
"""A session's token: 64 random bits, so that no leftover of an earlier session bears it."""

SERIAL_REASON_BYTES: Final = 64
"""Why a session was lost, in words."""
