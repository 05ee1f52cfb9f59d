"""Every bound of the protocol by name. Units are in the names."""

from typing import Final

EVENTS_PER_REQUEST_MAX: Final = 10_000
EVENTS_PER_BATCH_MAX: Final = 4_000
EVENT_BYTES_MAX: Final = 262_144
REQUEST_BYTES_MAX: Final = 16 * 1024 * 1024
PAYLOAD_BYTES_MAX: Final = 16 * 1024 * 1024  # the records of one batch, joined, uncompressed
JSON_DEPTH_MAX: Final = 64
EXTERNAL_ID_CHARS_MAX: Final = 512
EVENT_TYPE_CHARS_MAX: Final = 128
SOURCE_ID_CHARS_MAX: Final = 128
TOPIC_CHARS_MAX: Final = 128
TOPICS_PER_BATCH_MAX: Final = 16
ISSUES_PER_EVENT_MAX: Final = 32

LENGTH_BYTES: Final = 4
FRAME_BYTES_MAX: Final = 24 * 1024 * 1024  # after decompression
WIRE_FRAME_BYTES_MAX: Final = 8 * 1024 * 1024  # as it stands on the wire
GOSSIP_BYTES_MAX: Final = 65_536
CBOR_DEPTH_MAX: Final = 12
CONTEXT_BYTES_MAX: Final = 262_144
POLICY_BYTES_MAX: Final = 262_144

SIGNERS_MAX: Final = 64
SUBSCRIBERS_MAX: Final = 64  # nodes that a coordinator sends a batch's certificate to, besides those who worked
LOG_PAGE_MAX: Final = 1_000  # entries of a certificate log in one answer
NOTICE_BATCHES_MAX: Final = 64  # certified batches in one gossiped notice
HOLDERS_MAX: Final = 16  # nodes that keep a batch for its coordinator
ROLES_MAX: Final = 8
BIDS_PER_AUCTION_MAX: Final = 256
ADDRESSES_PER_PEER_MAX: Final = 8
TOKENS_PER_ADVERTISEMENT_MAX: Final = 32
MEMBERSHIP_BYTES_MAX: Final = 4_096
ADVERTISEMENTS_MAX: Final = 4_096

BEEF_BYTES_MAX: Final = 4 * 1024 * 1024
TRANSACTION_BYTES_MAX: Final = BEEF_BYTES_MAX
LIST_ITEMS_MAX: Final = 16_384  # inputs, outputs, path leaves and transactions of one BEEF, all together
PATH_DEPTH_MAX: Final = 64
PUSHDROP_FIELDS_MAX: Final = 256
URL_BYTES_MAX: Final = 2_048
