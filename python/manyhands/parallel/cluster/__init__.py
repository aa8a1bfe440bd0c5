"""Clusters: how they are started, found and ended.

    from manyhands.parallel.cluster import Cluster
    with Cluster(n=4) as rc:
        print(rc[:].apply_sync(os.getpid))
"""

from __future__ import annotations

from . import launcher, private
from .cluster import Cluster, ClusterManager, clean_cluster_files
from .command import find_command

__all__ = ["Cluster", "ClusterManager", "clean_cluster_files", "find_command", "launcher", "private"]
