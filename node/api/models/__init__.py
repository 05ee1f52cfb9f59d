"""The documents that the HTTP interface takes and gives, one model each, by resource.

Contains: pydantic models and types of their members. Answers are rendered from rows and not validated at run time:
their models describe them in OpenAPI, and the tests hold every answer against its model.
May import: ``runtime.document_models``, limits and enumerations of the packages below; nothing of Quart.
Never belongs here: reading of rows, decisions, checks that need a database.
"""
