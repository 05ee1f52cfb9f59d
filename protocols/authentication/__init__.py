"""Who sent an HTTP request: three forms of proof. Pure: the time and random bytes are arguments.

``form_of`` says which form a request uses: ``session`` is BRC-103/104 (``SessionBook``), ``authrite`` its legacy
forerunner BRC-31 (``AuthriteBook``), ``headers`` one signed request by itself (``authenticate_headers``).
"""

from protocols.authentication.authrite import AUTHRITE_PATH, AuthriteBook
from protocols.authentication.certificates import CERTIFICATES_MAX, CheckedCertificate, RequestedCertificates
from protocols.authentication.mutual import HANDSHAKE_PATH, SessionBook
from protocols.authentication.requests import (
    HANDSHAKE_BYTES_MAX,
    SIGNATURE_BYTES_MAX,
    AuthenticationForm,
    HttpRequest,
    form_of,
)
from protocols.authentication.sessions import Book, SessionClaim, SessionExchange, SessionLimits
from protocols.authentication.signed_headers import SignedRequest, authenticate_headers, sign_headers
from protocols.errors import InvalidAuthenticationError, NotAuthenticatedError

__all__ = [
    "AUTHRITE_PATH",
    "CERTIFICATES_MAX",
    "HANDSHAKE_BYTES_MAX",
    "HANDSHAKE_PATH",
    "SIGNATURE_BYTES_MAX",
    "AuthenticationForm",
    "AuthriteBook",
    "Book",
    "CheckedCertificate",
    "HttpRequest",
    "InvalidAuthenticationError",
    "NotAuthenticatedError",
    "RequestedCertificates",
    "SessionBook",
    "SessionClaim",
    "SessionExchange",
    "SessionLimits",
    "SignedRequest",
    "authenticate_headers",
    "form_of",
    "sign_headers",
]
