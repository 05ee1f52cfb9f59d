"""Parsers: the bytes of requests, messages, feeds and webhook deliveries become events.

May import: ``agents`` and ``protocols``. Pure and lean, since it runs in worker processes.
Something wrong with one event never costs the events beside it: it is reported by its index.
Never belongs here: I/O, and what a client is shown beside a rejection.
"""
