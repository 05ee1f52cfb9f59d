"""The roles of agents over a batch."""

import enum
from typing import Final


class Role(enum.IntEnum):
    NORMALIZE = 1
    VALIDATE = 2
    CERTIFY = 3
    DISTRIBUTE = 4

    @property
    def word(self) -> str:
        return self.name.lower()


EVIDENCE_ROLES: Final = (Role.NORMALIZE, Role.VALIDATE)  # whose results are voted upon
WORK_ROLES: Final = (*EVIDENCE_ROLES, Role.CERTIFY)  # what a lease is awarded for
