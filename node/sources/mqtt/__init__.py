"""MQTT brokers as sources."""

from node.sources.mqtt.connector import connector

__all__ = ["connector"]
