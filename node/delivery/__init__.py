"""Delivery of certified events: the feed, streams, webhooks, notices to other nodes, subscriptions, history.

May import: ``ingest`` and everything below it. Each event is rendered once and delivered in the order of its seal.
Never belongs here: HTTP servers (``api``), sources, decisions about batches.
"""
