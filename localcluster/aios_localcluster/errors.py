"""What can go wrong with a local cluster: every message says what must be true for the next attempt to work."""


class LocalClusterError(Exception):
    """The local cluster can't do what was asked."""


class CannotBuild(LocalClusterError):
    """A program of the cluster could not be built."""


class CannotRunHere(LocalClusterError):
    """This machine lacks something that the cluster needs."""


class NotRunning(LocalClusterError):
    """The cluster, or the component that was named, does not run."""
