"""The protocol as pure functions and values: bytes, messages, certificates, tokens, the state machine of batches.

May import: the standard library but for clocks, randomness and I/O; attrs and the codec and crypto libraries.
Never belongs here: I/O, clocks, randomness, settings, logging, and anything that knows of HTTP or SQL.
"""
