"""What stands before the versions, and who says how they do, in the shapes that are found in practice.

=============================================  ================================================================
:mod:`~rlcourse.release.adapters.service`      this course's own service: the default version, over its management API
:mod:`~rlcourse.release.adapters.haproxy`      HAProxy: weights, over its runtime socket
:mod:`~rlcourse.release.adapters.kubernetes`   manifests: Gateway API's HTTPRoute, Argo Rollouts
:mod:`~rlcourse.release.adapters.prometheus`   Prometheus: counts and alerts as the gate's evidence
:mod:`~rlcourse.release.adapters.returns`      ``rlcourse monitor follow``: the returns of both versions, by day
=============================================  ================================================================
"""
