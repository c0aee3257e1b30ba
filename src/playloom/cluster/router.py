"""Ray Serve's choice of a replica: the one that a request names, else the less busy of two.

The name comes from `playloom.cluster.affinity`. Two of Ray's own habits are left out: a replica chosen for one request
is never handed to another that waits longer (`FIFOMixin`), and one on the proxy's machine is not preferred
(`LocalityMixin`), since that would fill it before others get any work.
"""

from __future__ import annotations

import random

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class StickyRouter(RequestRouter):  # type: ignore[misc]  # Ray's types are not read
    """Sessions and jobs go home."""

    max_num_routing_tasks_cap = 1024

    @property
    def max_num_routing_tasks(self) -> int:
        """So many that requests which wait for a replica that hangs hold up no others."""
        return self.max_num_routing_tasks_cap if self.curr_replicas else 0

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Who may take this request; of several, Ray takes the one with less to do.

        A replica that is gone is nobody's home: any other then says what it does not know.
        """
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # else Ray asks again without a pause
            home = [r for r in candidate_replicas if r.replica_id.unique_id == pending_request.metadata.session_id]
            if home:
                return [home]
        return [random.sample(candidate_replicas, min(2, len(candidate_replicas)))]
