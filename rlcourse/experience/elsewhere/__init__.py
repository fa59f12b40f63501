"""Logs that somebody else wrote: Minari, D4RL's HDF5, NumPy archives, tables, and, if there is no other way, pickles.

::

    file ──names──▶ schema: which column is what ──read──▶ columns ──▶ FlatLog ──▶ Episodes, DatasetCard
                    (declared, or D4RL's names)                        one row a step

Its files: what columns mean (:mod:`~rlcourse.experience.elsewhere.schema`), the formats
(:mod:`~rlcourse.experience.elsewhere.tables`), pickles (:mod:`~rlcourse.experience.elsewhere.pickles`), rows into episodes
(:mod:`~rlcourse.experience.elsewhere.flat`), Minari's own (:mod:`~rlcourse.experience.elsewhere.minari_source`).
"""
