"""The one way in: admission control, grouped commit, batching, responses, idempotency, bisection of bad batches.

May import: ``network`` and everything below it. Nothing is acknowledged before its commit is flushed.
Never belongs here: how a kind of source is read (``sources``), HTTP (``api``), parsing of raw bytes (``worker``).
"""
