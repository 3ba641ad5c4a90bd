"""The bus protocol: subjects, envelopes and batches, ZMTP, errors, limits. No I/O; imports the stdlib and msgpack only.

The protocol itself is described in ``schemas/README.md``; every other part of busd and every SDK builds on this room.
"""
