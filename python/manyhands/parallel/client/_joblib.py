"""joblib's calls on the engines of a view."""

from __future__ import annotations

from typing import Any, Callable

from joblib.parallel import AutoBatchingMixin, ParallelBackendBase  # type: ignore[import-untyped, unused-ignore]

import manyhands.parallel as ipp

__all__ = ["IPythonParallelBackend"]


class IPythonParallelBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc, unused-ignore]
    """Runs the batches of `joblib.Parallel` on a view; without one, on the default cluster, or a private one where none runs."""

    supports_retrieve_callback = True

    def __init__(self, view: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._client_owner = view is None
        if view is None:
            client = ipp.Client()
            client.wait_for_engines(1)
            client[:].use_cloudpickle()  # joblib makes closures
            view = client.load_balanced_view()
        self._view = view

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """As many as there are engines."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        return len(self._view)

    def terminate(self) -> None:
        """Close the client, if it is this backend's own."""
        if self._client_owner:
            self._view.client.close()

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> Any:
        """Hand in a batch; its AsyncResult."""
        future = self._view.apply_async(func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit  # its name before joblib 1.5

    def retrieve_result_callback(self, future: Any) -> Any:
        """What a batch's calls returned; raises what one of them did."""
        return future.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """A call has failed: what is left of it is not wanted."""
        self._view.abort(block=False)
        if ensure_ready and not self._client_owner:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel, **getattr(self.parallel, "_backend_kwargs", {}))
