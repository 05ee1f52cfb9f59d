"""The policy language and the roles over a batch: pure functions from bytes to bytes; ``README.md`` is the guide.

May import: ``protocols`` only. No I/O, clock, randomness, locale, or anything else that differs between machines.
``roles.execute`` is the entry point. What agents compute here is signed and compared, so its bytes never change for
valid input without a new version of the language.
Never belongs here: where batches come from, and loading an operator's functions, which are passed in.
"""
