"""Overlay services (BRC-22, BRC-24): topic managers, lookup services, and what they answer with."""
