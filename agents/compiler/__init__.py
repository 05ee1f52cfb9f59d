"""Policies as generated functions over whole batches: the bytes that the interpreter makes, at about half its cost.

The stages, each in its module, in the order of a policy's way: ``layout`` plans which values of an event are computed
by themselves; ``sources``, ``conditions``, ``rules``, ``past``, ``rebuilding`` and ``texts`` write code, ``columns``
holds the names that they share, and ``source`` the text; ``generate`` puts it together. Running it are ``cells``, the
values of one field over many events, ``certification``, the lines about events that are as usual, and ``execution``,
which hands whatever is unusual to the interpreter.
"""
