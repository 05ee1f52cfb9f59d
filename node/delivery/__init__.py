"""The one way out: the feed of certified events, streams, webhooks, notices, subscriptions, history.

May import: ``ingest`` and everything below it. Each event is rendered once and delivered in the order of its seal.
Never belongs here: HTTP servers (``api``), sources, decisions about batches.
"""
