"""Kafka as a source: a member of a consumer group whose offsets are committed once the events are on disk.

What holds
- **Nothing is lost.** The offset of a message is committed after ``SourceIntake.take`` returned; the next reader of
  the partition begins there.
- **Nothing counts twice on a node.** An event's id is made of its message's topic, topic id, partition and offset:
  what is read again is a repeat. Between nodes with databases of their own, a partition is handed over once the batch
  under way is on disk and its offset committed, or given up before it was submitted. A node that is killed between
  the two, or cut off for longer than ``session.timeout.ms``, leaves up to a batch that the next one reads again: both
  nodes then have these events, under the same ids.
- **Order** within a partition is kept: one batch at a time is under way.

Where the client connects. The brokers of a source are checked like every outbound call. Without TLS the checked
address is called; with TLS the name, which the certificate must be issued for. All brokers that the cluster names are
checked before the group is joined and, as far as the running client knows them, every few seconds after that; one
that may not be called ends the source. What is *not* guaranteed: the client library connects by itself to brokers
that the cluster names. A cluster that names a private address gets a connection opened, with the protocol's
handshake, in the seconds before that is seen, and messages that are served from there meanwhile become events. To
exclude that, use a firewall.
"""

from functools import partial

from node.sources.intake import SourceConnector, SourceIntake
from node.sources.kafka.reader import KafkaReader

__all__ = ["connector"]


def connector(network: str) -> SourceConnector:
    """Reads sources of type ``kafka`` for a node of a network."""
    return SourceConnector(run=partial(_run, network=network))


async def _run(intake: SourceIntake, network: str) -> None:
    await KafkaReader(intake, network=network).run()
