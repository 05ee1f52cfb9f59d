"""Requests with an ``Idempotency-Key``: sent again, they are answered as before, byte for byte."""

from functools import partial
from typing import Final

import orjson
import trio
from quart import Request, Response, g

from node.api.acknowledging import acknowledgement, wants_minimal
from node.api.services import Services
from node.api.wire import account_of
from node.ingest.admission_control import ByteBudget
from node.ingest.idempotency import KeyedRequest, digest, read_key
from node.worker.parsing.bodies import RequestEncoding
from storage.idempotency import KeptResponse

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"
KEPT_HEADERS: Final = ("Content-Type", "Preference-Applied", "Vary")
INLINE_BYTES_MAX: Final = 128 * 1024  # a longer body is hashed on a thread


async def ingest_once(
    services: Services, asked: Request, *, form: RequestEncoding, body: bytes, budget: ByteBudget, started_s: float
) -> Response:
    """The answer to an ingest request with a key; ``budget`` is transferred to it.

    Raises:
        InvalidIdempotencyKeyError, KeyInUseError, KeyReusedError. And what ``Ingest.submit`` raises.
    """
    identity, account, minimal = g.caller.identity, account_of(asked), wants_minimal(asked)
    key = read_key(asked.headers.getlist(HEADER))
    scope = digest(identity or b"", asked.scope["raw_path"], asked.scope["query_string"], key.encode())
    call = partial(digest, _form_bytes(form), body)
    fingerprint = call() if len(body) <= INLINE_BYTES_MAX else await trio.to_thread.run_sync(call)

    async def carry_out() -> KeptResponse:
        with budget.transfer():
            answer = await services.ingest.submit(
                body, form=form, caller=identity, account=account, started_s=started_s
            )
        response = await acknowledgement(answer, minimal=minimal)
        return KeptResponse(
            fingerprint=fingerprint,
            status=response.status_code,
            headers={name: response.headers[name] for name in KEPT_HEADERS if name in response.headers},
            body=await response.get_data(as_text=False),
        )

    kept, is_replayed = await services.idempotency.once(KeyedRequest(scope=scope, fingerprint=fingerprint), carry_out)
    response = Response(kept.body, status=kept.status, headers=kept.headers)
    if is_replayed:
        response.headers[REPLAYED] = "true"
    return response


def _form_bytes(form: RequestEncoding) -> bytes:
    """What of a request's headers its meaning depends on."""
    return orjson.dumps([form.shape, form.coding, form.attributes, form.media_type])
