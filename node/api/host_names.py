"""The names that a request may be addressed to (RFC 9110, section 7.2): any host is served, but not what is none."""

import re
from typing import Final

LABEL: Final = rb"[A-Za-z0-9_~!$&'()*+,;=%-]{1,63}"  # RFC 3986, section 3.2.2, in labels as DNS has them
HOST: Final = re.compile(rb"(?:%b(?:\.%b)*\.?|\[[0-9A-Fa-f:.]{2,45}\])?(?::[0-9]{0,5})?" % (LABEL, LABEL))
HOST_BYTES_MAX: Final = 255 + len(":65535")


def is_host(value: bytes) -> bool:
    """Whether a Host header or an ``:authority`` has its form. The framework fails over others before any route."""
    return len(value) <= HOST_BYTES_MAX and HOST.fullmatch(value) is not None
