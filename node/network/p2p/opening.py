"""Starts the transport and closes it."""

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog
import trio
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from node.network.p2p.config import TransportConfig
from node.network.p2p.connector import WILDCARDS, Arrivals, Connector, identity_in
from node.network.p2p.fence import PeerFence
from node.network.p2p.gossip import GossipPort
from node.network.p2p.identities import identity_of
from node.network.p2p.incoming import IncomingStreams
from node.network.p2p.network import PeerNetwork
from node.network.p2p.peer_links import PeerLinks
from node.network.p2p.requests import PendingRequests
from node.network.p2p.stack import Host, build_host
from node.network.p2p.upkeep import Upkeep
from node.network.transport import Answer
from node.runtime.containment import Quarantine
from protocols.errors import WorldFault
from protocols.messages import IdentityKey

log = structlog.get_logger(__name__)

CLOSE_S: Final = 5.0
ARRIVALS_MAX: Final = 64


class ListenError(WorldFault):
    """An address to listen on is taken, is not this machine's, or cannot be read."""

    code = "cannot-listen"


@asynccontextmanager
async def open_transport(
    config: TransportConfig, answer: Answer, quarantine: Quarantine
) -> AsyncIterator[PeerNetwork]:
    """Listen, join the topics, dial the bootstrap peers; closes everything within ``CLOSE_S`` on leaving.

    Args:
        answer: Answers peers' requests.
        quarantine: Counts the connections, requests and messages whose handling failed.

    Raises:
        ListenError: A listen address cannot be had. What is raised after that comes in an exception group.
        AddressError: A bootstrap address cannot be read. ValueError: An announced one cannot.
    """
    _keep_library_log()
    listen = _checked_addresses(config)
    fence = PeerFence(quarantine)
    host = build_host(config.secret, [_parsed(address) for address in config.announce], config.admits, fence)
    identity = _identity(host)
    gossip = GossipPort(host, config, fence)
    arrivals, arrived = trio.open_memory_channel[IdentityKey](ARRIVALS_MAX)
    connector = Connector(host, identity, f"/{config.network}/jobs/1")
    host.get_network().register_notifee(Arrivals(arrivals))
    with trio.CancelScope() as scope:
        async with (
            host.run(listen_addrs=listen),
            background_trio_service(gossip.pubsub),
            background_trio_service(gossip.router),
            trio.open_nursery() as nursery,
        ):
            _check_listening(host, config)
            requests = PendingRequests()
            links = PeerLinks(
                config=config,
                identity=identity,
                connector=connector,
                requests=requests,
                nursery=nursery,
                fence=fence,
            )
            incoming = IncomingStreams(links, requests, answer, fence)
            upkeep = Upkeep(config, identity, connector, links, nursery, fence)
            gossip.pubsub.report_to(links.strike)
            host.set_stream_handler(connector.protocol, incoming.serve)
            await gossip.pubsub.wait_until_ready()
            await _join(config, upkeep, gossip, nursery)
            nursery.start_soon(upkeep.watch_arrivals, arrived)
            try:
                yield PeerNetwork(
                    identity=identity,
                    addresses=_addresses(host),
                    gossip=gossip,
                    links=links,
                    requests=requests,
                    queue=incoming.queue,
                    follow=upkeep.follow,
                )
            finally:
                scope.deadline = trio.current_time() + CLOSE_S
                await _close(upkeep, connector, host, scope.deadline)
                nursery.cancel_scope.cancel()


def _keep_library_log() -> None:
    """Let the library's log through to the root logger, but for failed dials: it reports each as an error."""
    logging.getLogger("libp2p").propagate = True
    logging.getLogger("libp2p.transport.tcp.tcp").setLevel(logging.CRITICAL)


def _checked_addresses(config: TransportConfig) -> list[Multiaddr]:
    """The addresses to listen on, each free; those to dial can be read."""
    for address in config.bootstrap:
        identity_in(address)
    return [_free(address) for address in config.listen]


def _check_listening(host: Host, config: TransportConfig) -> None:
    if len(host.get_transport_addrs()) < len(config.listen):
        raise ListenError(f"cannot listen on all of {', '.join(config.listen)}")


def _identity(host: Host) -> IdentityKey:
    identity = identity_of(host.get_id().to_bytes())
    assert identity is not None, "made from an identity key"
    return identity


async def _close(upkeep: Upkeep, connector: Connector, host: Host, deadline_s: float) -> None:
    with trio.CancelScope(deadline=deadline_s, shield=True):
        await upkeep.flush()
        await connector.cut_all()
        await host.close()  # else its listeners go on accepting: no nursery of ours holds their tasks


def _addresses(host: Host) -> tuple[str, ...]:
    """The addresses where peers can dial this node: no wildcards, which mean nothing to them."""
    addresses = tuple(str(address) for address in host.get_addrs())
    usable = tuple(address for address in addresses if not address.startswith(WILDCARDS))
    if len(usable) < len(addresses):
        log.warning("network.no_address_to_advertise", listen=addresses, hint="set the addresses to announce")
    return usable


async def _join(config: TransportConfig, upkeep: Upkeep, gossip: GossipPort, nursery: trio.Nursery) -> None:
    for topic in config.topics:
        nursery.start_soon(gossip.run, topic, await gossip.join(topic))
    nursery.start_soon(gossip.run_publisher)
    nursery.start_soon(gossip.keep_neighbours, upkeep.connected)
    nursery.start_soon(upkeep.sweep)
    upkeep.join(config.bootstrap)


def _parsed(address: str) -> Multiaddr:
    try:
        return Multiaddr(address)
    except MultiaddrError as error:
        raise ValueError(f"{address!r} must be a multiaddr") from error


def _free(address: str) -> Multiaddr:
    """A listen address that is free.

    The library listens with SO_REUSEPORT, with which two nodes on one port both start and each gets half of the
    connections: a socket without it shows whether the port is taken.
    """
    parsed = _parsed(address)
    protocols = [protocol.name for protocol in parsed.protocols()]
    if protocols not in (["ip4", "tcp"], ["ip6", "tcp"]):
        raise ListenError(f"{address!r} must be /ip4/.../tcp/... or /ip6/.../tcp/...")
    family = socket.AF_INET if protocols[0] == "ip4" else socket.AF_INET6
    host, port = str(parsed.value_for_protocol(protocols[0])), int(str(parsed.value_for_protocol("tcp")))
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ListenError(f"cannot listen on {address}: {error.strerror}") from error
    return parsed
