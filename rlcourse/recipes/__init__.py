"""Runnable experiments and the ``rlcourse`` command line. Nothing imports this package."""
