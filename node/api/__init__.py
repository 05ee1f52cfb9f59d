"""HTTP: one blueprint per resource, request and response models, OpenAPI derived from them, the static pages.

May import: everything below it in ``node``, ``storage`` repositories through ``Database.run``, ``protocols``. Nothing
else imports Quart or Hypercorn, or knows HTTP statuses (``problems`` pairs errors with statuses).
Never belongs here: SQL, decisions about batches, anything a source or a peer needs too.
"""
