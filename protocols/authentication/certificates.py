"""Identity certificates (BRC-52) that a client shows to a verifier in a session (BRC-103).

A certifier signs which fields a subject has, each encrypted under a key of its own; the subject reveals some to one
verifier by encrypting their keys to it, the keyring. Revocation is not looked up here: the outpoint is handed on.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocols import keys
from protocols.authentication.requests import icu_key, invalid, read_base64, read_identity, read_signature, read_text
from protocols.canonical import Json
from protocols.compact_size import write_compact_size
from protocols.keys import PrivateKey, Protocol

CERTIFICATES_MAX: Final = 16  # of one client
FIELDS_MAX: Final = 64
FIELD_NAME_CHARS_MAX: Final = 50
FIELD_BYTES_MAX: Final = 8_192
FIELD_KEY_BYTES_MAX: Final = 32
TYPE_BYTES, SERIAL_BYTES = 32, 32

MEMBERS: Final = ("type", "serialNumber", "subject", "certifier", "revocationOutpoint", "signature")
SIGNATURE_PROTOCOL: Final[Protocol] = (2, "certificate signature")
FIELD_PROTOCOL: Final[Protocol] = (2, "certificate field encryption")

IV_BYTES, TAG_BYTES = 32, 16
_OUTPOINT: Final = re.compile(r"([0-9a-f]{64})\.(0|[1-9][0-9]{0,9})")
_FIELD_NAME: Final = re.compile(rf"[ -~]{{1,{FIELD_NAME_CHARS_MAX}}}")


@attrs.frozen(kw_only=True)
class RequestedCertificates:
    """Which certificates a node asks its clients for.

    Attributes:
        certifiers: Identity keys; any of them will do.
        types: By type, 32 bytes in base64, the names of the fields to reveal.
    """

    certifiers: tuple[bytes, ...] = ()
    types: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)

    def __bool__(self) -> bool:
        return bool(self.certifiers)

    def to_json(self) -> dict[str, Any]:
        return {
            "certifiers": [certifier.hex() for certifier in self.certifiers],
            "types": {kind: list(names) for kind, names in self.types.items()},
        }


@attrs.frozen(kw_only=True)
class CheckedCertificate:
    """A certificate that was requested, is its subject's, and has its certifier's signature.

    Attributes:
        type: 32 bytes in base64.
        serial_number: 32 bytes in base64.
        revocation_outpoint: ``txid.index``; spent, once the certifier revokes.
        fields: Those requested, decrypted.
    """

    type: str
    serial_number: str
    subject: bytes
    certifier: bytes
    revocation_outpoint: str
    fields: Mapping[str, str]


def check_certificate(
    key: PrivateKey, document: Json, *, subject: bytes, requested: RequestedCertificates
) -> CheckedCertificate:
    """Check one certificate with its keyring for us.

    Args:
        key: The verifier's.
        subject: Who shows it: the session's identity.

    Raises:
        InvalidAuthenticationError: it is malformed, another's, was not requested, reveals less than was, or its
            certifier did not sign it. ``field`` in its fields names the member.
    """
    members = _read_object(document, "certificates")
    kind, serial, subject_text, certifier_text, outpoint, signature_text = (
        read_text(members.get(name), name) for name in MEMBERS
    )
    if read_identity(subject_text, "subject") != subject:
        raise invalid("subject", "not the identity of this session", "show certificates of your own")
    certifier = read_identity(certifier_text, "certifier")
    if certifier not in requested.certifiers:
        raise invalid("certifier", "certificates of this certifier were not requested", "show one of another")
    if kind not in requested.types:
        raise invalid("type", "certificates of this type were not requested", "show one of another type")
    encrypted = _read_texts(members.get("fields"), "fields")
    signed = certificate_bytes(kind, serial, subject, certifier, outpoint, encrypted)
    signature = read_signature(signature_text, "signature")
    if not keys.verify(certifier, SIGNATURE_PROTOCOL, f"{kind} {serial}", signed, signature):
        raise invalid("signature", "not the certifier's, over this certificate", "show it as it was issued")
    keyring = _read_texts(members.get("keyring"), "keyring")
    revealed = {name: reveal_field(key, subject, serial, name, encrypted, keyring) for name in requested.types[kind]}
    return CheckedCertificate(
        type=kind,
        serial_number=serial,
        subject=subject,
        certifier=certifier,
        revocation_outpoint=outpoint,
        fields=revealed,
    )


def certificate_bytes(
    kind: str, serial: str, subject: bytes, certifier: bytes, outpoint: str, fields: Mapping[str, str]
) -> bytes:
    """What a certifier signs (BRC-52), the fields in the order of ``localeCompare`` as the official SDK has them."""
    match = _OUTPOINT.fullmatch(outpoint)
    if match is None or int(match[2]) >= 2**32:
        raise invalid(
            "revocationOutpoint", "must be an outpoint", "send txid.index, the txid in lower-case hex digits"
        )
    parts = [
        read_base64(kind, "type", bytes_min=TYPE_BYTES, bytes_max=TYPE_BYTES),
        read_base64(serial, "serialNumber", bytes_min=SERIAL_BYTES, bytes_max=SERIAL_BYTES),
        subject,
        certifier,
        bytes.fromhex(match[1]),
        write_compact_size(int(match[2])),
        write_compact_size(len(fields)),
    ]
    for name in sorted(fields, key=icu_key):
        for text in (name, fields[name]):
            data = text.encode()
            parts += (write_compact_size(len(data)), data)
    return b"".join(parts)


def reveal_field(
    key: PrivateKey, subject: bytes, serial: str, name: str, encrypted: Mapping[str, str], keyring: Mapping[str, str]
) -> str:
    """Decrypt one field with the key for it in the keyring."""
    if name not in encrypted or name not in keyring:
        raise invalid("keyring", f"the field {name!r} is not revealed", "reveal all fields that are requested")
    wrapping_key = key.symmetric_key(FIELD_PROTOCOL, f"{serial} {name}", subject).rjust(32, b"\0")
    field_key = _decrypt(wrapping_key, keyring[name], "keyring")
    if len(field_key) > FIELD_KEY_BYTES_MAX:
        raise invalid("keyring", f"the key of {name!r} is too long", "reveal it anew")
    try:
        return _decrypt(field_key.rjust(32, b"\0"), encrypted[name], "fields").decode()
    except UnicodeDecodeError as error:
        raise invalid("fields", f"the field {name!r} must be a string", "show another certificate") from error


def _decrypt(key: bytes, text: str, field: str) -> bytes:
    """AES-256-GCM as in BRC-2: a nonce of 32 bytes, ciphertext, a tag of 16 bytes."""
    data = read_base64(text, field, bytes_min=IV_BYTES + TAG_BYTES, bytes_max=FIELD_BYTES_MAX)
    try:
        return AESGCM(key).decrypt(data[:IV_BYTES], data[IV_BYTES:], None)
    except InvalidTag as error:
        raise invalid(field, "does not decrypt", "reveal the fields to this node's identity key") from error


def _read_object(value: Json, field: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise invalid(field, "must be an object", "send the certificates as JSON objects")
    return value


def _read_texts(value: Json, field: str) -> dict[str, str]:
    """An object of strings with names that a certificate may have."""
    texts = _read_object(value, field)
    if len(texts) > FIELDS_MAX:
        raise invalid(field, f"more than {FIELDS_MAX} fields", "show a smaller certificate")
    for name, text in texts.items():
        if _FIELD_NAME.fullmatch(name) is None:
            raise invalid(
                field, f"{name[:60]!r} is not the name of a field", "names are 1 to 50 printable ASCII letters"
            )
        if not isinstance(text, str) or len(text) > 2 * FIELD_BYTES_MAX:
            raise invalid(field, f"{name!r} must be a string of bounded length", "send fields in base64")
    return texts  # type: ignore[return-value]
