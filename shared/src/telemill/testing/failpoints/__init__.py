"""Places where a service can be made to die, from outside: the product holds no test code.

    TELEMILL_FAILPOINT=state.uploaded:2 python -m telemill.testing.failpoints transform

runs `python -m transform`, which kills itself with SIGKILL when its second state has been
uploaded. Instead, TELEMILL_FAILPOINT_FILE names a file that is looked at whenever a failpoint is
passed: `name` or `name:nth` written there arms a running service. Before it dies, a process writes
one line, `failpoint.reached`, to standard error.

A failpoint wraps a function of the product, found by name: one that is no longer there is an error
at start, never a failpoint that silently does nothing.
"""
