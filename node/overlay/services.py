"""The overlay services of a node, put together: topic managers, lookup services and propagation."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from node.overlay.advert_lookup import AdvertLookup, Adverts
from node.overlay.certificate_lookup import CertificateLookup
from node.overlay.checking import TransactionChecker
from node.overlay.lookup import LookupOutput, LookupService
from node.overlay.objects import Objects
from node.overlay.propagation import Propagation
from node.overlay.submit import Submissions
from node.overlay.uhrp_lookup import UhrpLookup
from node.runtime.clock import clock_ms
from node.runtime.guarded_network import Network
from protocols.errors import ClientFault
from protocols.keys import PrivateKey
from protocols.messages import IdentityKey
from protocols.topics import AdvertisementManager, CertificateManager, ObjectManager, TopicManager
from storage import outputs
from storage.database import Database

CERTIFICATES: Final = "tm_event_certificates"
TOPICS: Final = ("tm_ship", "tm_slap", "tm_uhrp", CERTIFICATES)
SERVICES: Final = ("ls_ship", "ls_slap", "ls_uhrp", "ls_event_certificates")
HOLDERS_MAX: Final = 16


class UnknownServiceError(ClientFault):
    code = "unknown-service"


class OverlayServices:
    """BRC-22 and BRC-24 at this node."""

    def __init__(
        self,
        *,
        network: str,
        key: PrivateKey,
        public_url: str,
        allow_local_urls: bool,
        database: Database,
        objects: Objects,
        checker: TransactionChecker,
        adverts: Adverts,
        is_known: Callable[[IdentityKey], bool],
        event_topics: Sequence[str],
        outbound_allowed: Sequence[Network],
    ) -> None:
        """``event_topics``: names of further topics that take certificates. ``is_known``: see the manager."""
        self._database = database
        ship = AdvertLookup("SHIP", database=database, adverts=adverts)
        slap = AdvertLookup("SLAP", database=database, adverts=adverts)
        uhrp = UhrpLookup(objects=objects, submitted=self.uhrp_outputs, allow_local_urls=allow_local_urls)
        services: tuple[LookupService, ...] = (ship, slap, uhrp, CertificateLookup(database=database, key=key))
        self.lookups: Mapping[str, LookupService] = {service.name: service for service in services}
        managers: list[TopicManager] = [
            AdvertisementManager(kind="SHIP", allow_local_urls=allow_local_urls),
            AdvertisementManager(kind="SLAP", allow_local_urls=allow_local_urls),
            ObjectManager(allow_local_urls=allow_local_urls),
            *(
                CertificateManager(name=name, network=network, is_known=is_known)
                for name in dict.fromkeys((CERTIFICATES, *event_topics))
            ),
        ]
        self.propagation = Propagation(hosts=ship.hosts, own_url=public_url, allowed=outbound_allowed)
        self.submissions = Submissions(
            database=database, managers=managers, checker=checker, propagate=self.propagation.propagate
        )

    async def lookup(self, service: str, query: Any) -> Sequence[LookupOutput]:
        """The outputs that match a query.

        Raises:
            UnknownServiceError: This node does not have the service.
            InvalidQueryError: The service does not accept the query.
        """
        found = self.lookups.get(service)
        if found is None:
            raise UnknownServiceError(
                f"this node has no lookup service {service[:80]!r}", remedy=f"ask one of {', '.join(self.lookups)}"
            )
        return await found.lookup(query)

    async def uhrp_outputs(self, digests: Sequence[bytes]) -> Sequence[LookupOutput]:
        """Advertisements of objects of these digests that were submitted to ``tm_uhrp`` and have not expired."""
        now_s = clock_ms() // 1_000
        limit = HOLDERS_MAX * len(digests)
        find = partial(outputs.find, topic="tm_uhrp", digests=digests, now_s=now_s, limit=limit)
        rows = await self._database.run(find)
        return [LookupOutput(beef=row.beef, output_index=row.output_index) for row in rows]
