"""What is wrong with a node, and its gauges.

Contains: ``monitor`` (looks with every probe, again and again, and answers at once), ``gauges``, and the probes by
what they look at: ``lifecycle``, ``storage`` (database and disk), ``processes``, ``peers``, ``certification``,
``feeds``. May import: every package of the node below it. Changes nothing but the metrics.
"""
