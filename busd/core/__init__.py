"""The bus itself, without I/O, clock or randomness: bytes and the time come in as arguments, bytes go out.

Three verbs at the seam (`bus.Bus`): *receive*, *take what is to be sent*, *next deadline / expire(now)*.
"""
