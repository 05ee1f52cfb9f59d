"""What every part of a node needs: settings, keys, clock, caches, access rules, workers, supervision, guarded HTTP.

May import: ``worker`` (to start worker processes), ``storage``, ``protocols``. Knows nothing of batches.
Never belongs here: anything with a meaning to one package alone.
"""
