"""The key file: made once, private, and refused when others can read it."""

import os
import stat
from pathlib import Path

import pytest

from node.runtime.keyring import KeyFileError, Keyring, create_key, load_key
from protocols.keys import verify

PROTOCOL = (2, "overlay test")


def test_a_key_is_kept_private_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "identity.key"
    before = os.umask(0)
    try:
        key = create_key(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key(path).to_bytes() == key.to_bytes()


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    create_key(path)
    before = path.read_bytes()
    with pytest.raises(KeyFileError, match="never overwritten"):
        create_key(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_can_reach_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.key"
    create_key(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"chmod 600 {path}"):
        load_key(path)


@pytest.mark.parametrize("content", [b"", b"00" * 32, b"ff" * 32, b"zz" * 32, b"01" * 31, b"01" * 33, b"\xff" * 64])
def test_a_file_without_a_key_is_refused_without_its_content(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="does not contain a key") as refused:
        load_key(path)
    assert not content or content.decode("latin-1") not in str(refused.value)


def test_a_missing_key_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="overlay-node keygen --out"):
        load_key(tmp_path / "identity.key")


def test_the_signer_signs_as_its_identity_and_hides_the_secret(tmp_path: Path) -> None:
    key = create_key(tmp_path / "identity.key")
    keyring = Keyring(key)
    signature = keyring.sign(PROTOCOL, "batch_1", b"data")
    assert verify(keyring.identity, PROTOCOL, "batch_1", b"data", signature)
    assert not verify(keyring.identity, PROTOCOL, "batch_2", b"data", signature)
    assert key.to_bytes().hex() not in repr(keyring) + repr(key)


def test_a_key_of_another_user_is_refused_with_the_remedy(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    path = tmp_path / "identity.key"
    create_key(path)
    os.chown(path, 65_534, -1)
    with pytest.raises(KeyFileError, match=f"belongs to another user: run 'chown 0 {path}'"):
        load_key(path)


def test_a_key_file_is_read_as_people_write_it(tmp_path: Path) -> None:
    """Upper case, spaces and a newline at the end do not make another key."""
    path = tmp_path / "identity.key"
    key = create_key(path)
    path.write_text(f"  {key.to_bytes().hex().upper()} \n\n")
    assert load_key(path).to_bytes() == key.to_bytes()


def test_a_directory_that_takes_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        KeyFileError, match=f"/file/identity.key cannot be written: {tmp_path}/file is not a directory"
    ):
        create_key(tmp_path / "file" / "identity.key")
    with pytest.raises(KeyFileError, match=f"{tmp_path} cannot be read: Is a directory"):
        load_key(tmp_path)


def test_two_keys_are_never_the_same(tmp_path: Path) -> None:
    made = {create_key(tmp_path / str(number)).to_bytes() for number in range(20)}
    assert len(made) == 20
