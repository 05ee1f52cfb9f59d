"""The identity key: a file of 64 hex digits that only the node's user can read, and the signer that uses it."""

import os
import re
import secrets
import stat
from pathlib import Path

from protocols.errors import InvalidKeyError, OverlayError
from protocols.keys import PrivateKey
from protocols.messages import IdentityKey

FILE_BYTES_MAX = 128
HEX = re.compile(rb"\s*[0-9A-Fa-f]{64}\s*")


class KeyFileError(OverlayError):
    """The key file cannot be used; the text states why and what to do."""

    code = "key-file"


def generate_key() -> PrivateKey:
    """A new key from the operating system's random bytes."""
    return PrivateKey(secrets.token_bytes(32))


def create_key(path: Path) -> PrivateKey:
    """Generate an identity key and write it to a new file, mode 0600, flushed to disk before this returns.

    Raises:
        KeyFileError: the file exists, or cannot be written.
    """
    key = generate_key()
    try:
        path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)  # the database's user must pass it
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)  # whatever the umask
            file.write(key.to_bytes().hex().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        _sync_directory(path.parent)
    except FileExistsError:
        if not path.exists():
            raise KeyFileError(f"{path} cannot be written: {path.parent} is not a directory") from None
        raise KeyFileError(f"{path} exists: keep it, or choose another name; a key is never overwritten") from None
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {error.strerror}") from error
    return key


def load_key(path: Path) -> PrivateKey:
    """Read the identity key.

    Raises:
        KeyFileError: the file is missing, readable by others, owned by another user, or does not contain a key.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise KeyFileError(f"{path} is missing: make a key with 'overlay-node keygen --out {path}'") from None
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from error
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise KeyFileError(f"{path} can be read by others than its owner: run 'chmod 600 {path}'")
    if status.st_uid not in (os.geteuid(), 0):
        raise KeyFileError(f"{path} belongs to another user: run 'chown {os.geteuid()} {path}'")
    try:
        if not HEX.fullmatch(data):  # a shorter number would be a key too, and another one
            raise ValueError("not 64 hex digits")
        return PrivateKey.from_bytes(bytes.fromhex(data.decode()))
    except (ValueError, InvalidKeyError):
        raise KeyFileError(f"{path} does not contain a key of 64 hex digits: restore it from a copy") from None


class Keyring:
    """The node's signer. Its ``repr`` does not show the secret."""

    def __init__(self, key: PrivateKey) -> None:
        self._key = key

    def __repr__(self) -> str:
        return f"Keyring(identity={self._key.identity.hex()})"

    @property
    def identity(self) -> IdentityKey:
        return IdentityKey(self._key.identity)

    @property
    def key(self) -> PrivateKey:
        """The key itself, to derive keys with a counterparty."""
        return self._key

    def sign(self, protocol: tuple[int, str], key_id: str, data: bytes) -> bytes:
        """BRC-3 signature for ``anyone``, DER."""
        return self._key.sign(protocol, key_id, data, once=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
