"""Calls to a node that prove an identity, in the header form: for the command line, scripts and tests."""

import time
from collections.abc import Generator

import httpx

from protocols.authentication import sign_headers
from protocols.keys import PrivateKey
from protocols.messages import IdentityKey


class SignedRequests(httpx.Auth):
    """``httpx.Client(auth=SignedRequests(key, node))``: each request signed for that node, with its own nonce."""

    requires_request_body = True

    def __init__(self, key: PrivateKey, node: IdentityKey) -> None:
        self._key = key
        self._node = node
        self._last_ns = 0

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        self._last_ns = max(self._last_ns + 1, time.time_ns())
        signed = sign_headers(
            self._key,
            self._node,
            method=request.method,
            target=request.url.raw_path.decode("ascii"),
            body=request.content,
            nonce_ns=self._last_ns,
        )
        request.headers.update(signed)
        yield request


def identity_of(base_url: str, timeout_s: float = 10.0) -> IdentityKey:
    """The identity key of the node at a URL, on its own word: name the key where the way there is not trusted."""
    answer = httpx.get(f"{base_url}/overlay/node", timeout=timeout_s)
    answer.raise_for_status()
    return bytes.fromhex(answer.json()["identityKey"])
