"""What to watch of a policy that acts, and when to say that the world has changed.

The names are in :mod:`~rlcourse.monitoring.catalogue`. Everything but :mod:`~rlcourse.monitoring.exporter` is pure: numbers
go in, numbers come out, and no thread, clock or socket is touched.
"""
