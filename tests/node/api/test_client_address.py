"""What a client is counted as."""

import pytest

from node.api.client_address import network_of


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        (None, "local"),
        ("<local>", "local"),
    ],
)
def test_a_network_is_counted_as_one_client(address: str | None, network: str) -> None:
    assert network_of(address) == network
