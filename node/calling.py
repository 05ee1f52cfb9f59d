"""Requests to a node that are signed in the header form: for the command line, scripts and tests."""

import time
from collections.abc import Generator

import httpx

from protocols.authentication import sign_headers
from protocols.keys import PrivateKey
from protocols.messages import IdentityKey


class SignedRequests(httpx.Auth):
    """``httpx.Client(auth=SignedRequests(key, node))`` signs each request for that node, with a nonce of its own."""

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
    """Ask the node at a URL for its identity key. The answer is not proven: name the key where others could answer.

    Raises:
        httpx.HTTPError: the node does not answer, or not with 200. KeyError, ValueError: the answer has no key.
    """
    answer = httpx.get(f"{base_url}/overlay/node", timeout=timeout_s)
    answer.raise_for_status()
    return bytes.fromhex(answer.json()["identityKey"])
