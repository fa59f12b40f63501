"""What stands before the versions, in the shapes that are found in practice.

=============================================  ================================================================
:mod:`~rlcourse.release.adapters.service`      this course's own service: the default version, over its management API
:mod:`~rlcourse.release.adapters.haproxy`      HAProxy: weights, over its runtime socket
:mod:`~rlcourse.release.adapters.kubernetes`   manifests: Gateway API's HTTPRoute, Argo Rollouts
=============================================  ================================================================
"""
