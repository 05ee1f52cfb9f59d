"""Sources whose events others send here: to the ingest API, or as signed webhooks."""

from node.source_settings.base import SourceSettings


class WebhookSettings(SourceSettings):
    """Nothing needs to be said about events that come by the ingest API."""
