"""What comes in, read: the bytes of requests, messages, feeds and deliveries become events. Pure and lean: it runs in
worker processes, and keeps what is wrong with one event from costing its neighbours.
"""
