"""Where work runs: threads and processes of this machine, or a Dask cluster, all through joblib.

This module has no scheduler. Work runs on a cluster inside `cluster`, or inside the caller's own
`joblib.parallel_config`; all other work runs on this machine.
"""

from __future__ import annotations

import signal
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from joblib import Parallel, effective_n_jobs, parallel_config
from joblib.parallel import get_active_backend

from pipeline.errors import PipelineError
from pipeline.provenance import installed

SECONDS_TO_CONNECT = 10
SECONDS_FOR_WORKERS = 60

_LOCAL = ("LokyBackend", "ThreadingBackend", "SequentialBackend", "MultiprocessingBackend")


def on_cluster() -> bool:
    """Return whether joblib is configured to send work to a cluster."""
    return type(get_active_backend()[0]).__name__ not in _LOCAL


def workers(n_jobs: int | None) -> int:
    """Return the number of workers: every core, or every thread of the cluster, for None and -1; all but one for -2."""
    return effective_n_jobs(-1 if n_jobs is None else n_jobs)


def check_jobs(n_jobs: int | None) -> None:
    """Raise `PipelineError` if `n_jobs` is 0."""
    if n_jobs == 0:
        raise PipelineError("n_jobs: expected a number of workers, got 0", "leave out --jobs to use every core")


def engine(dask: str | None) -> AbstractContextManager[None]:
    """Return a context in which joblib sends work to the cluster at this address; None: to this machine."""
    return nullcontext() if dask is None else cluster(dask)


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """Send the work that joblib runs inside the context to a Dask cluster.

    Its workers need the same version of this package, and must see images, weights and caches under the same paths.

    Parameters
    ----------
    address : str
        Address of the scheduler, such as ``tcp://10.0.0.1:8786``.

    Raises
    ------
    PipelineError
        Dask is not installed, no scheduler answers at the address, or a worker has another version of this package.
    """
    try:
        from distributed import Client
    except ImportError:
        raise PipelineError(
            "--dask: expected Dask, but it is not installed", "pip install 'transfer-pipeline[dask]'"
        ) from None
    try:
        client = Client(address, timeout=SECONDS_TO_CONNECT, set_as_default=True)
    except (OSError, ValueError) as error:
        raise PipelineError(
            f"--dask {address}: expected a Dask scheduler, got none that answers ({_first_line(error)})",
            "start one with `dask scheduler`, and give the address that it prints",
        ) from error
    with client:
        _check_workers(client, address)
        with parallel_config("dask"):
            yield


def package_version() -> str:
    """Return this package's version; every worker of a cluster runs this function."""
    return installed("transfer-pipeline")


def _check_workers(client: Any, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=SECONDS_FOR_WORKERS)
    except TimeoutError as error:
        raise PipelineError(
            f"--dask {address}: expected workers, got none within {SECONDS_FOR_WORKERS} seconds",
            f"start some with `dask worker {address}`",
        ) from error
    expected = package_version()
    answers = client.run(package_version, on_error="return")
    for worker, found in answers.items():
        if found != expected:
            what = f"none ({_first_line(found)})" if isinstance(found, BaseException) else found
            raise PipelineError(
                f"--dask {address}: expected transfer-pipeline {expected} on the worker {worker}, got {what}",
                "install the same version on every worker, and start them again",
            )


def by_processes(tasks: Iterable[tuple], *, n_jobs: int) -> Generator[Any, None, None]:
    """Yield the result of each of joblib's delayed tasks as it completes; close the generator to drop the rest.

    Parameters
    ----------
    tasks : iterable of tuple
        As `joblib.delayed` makes them.
    n_jobs : int
        Number of processes; 1 runs the tasks in this process.
    """
    with warnings.catch_warnings():
        # loky takes a process that loads a large library, such as torch, for a leak and replaces it between two tasks.
        # No result is lost and the user can do nothing about it, so the warning is silenced.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
        with ignore_signals():
            done = Parallel(n_jobs=n_jobs, return_as="generator_unordered")(tasks)
        try:
            # Not `yield from`, which would close it before the warning can be silenced.
            for item in done:  # noqa: UP028
                yield item
        finally:
            warnings.simplefilter("ignore")  # joblib warns of results that were not consumed
            done.close()


@contextmanager
def ignore_signals() -> Iterator[None]:
    """Start processes that leave Ctrl-C and SIGTERM to this one, which stops them.

    A terminal, a service manager and a batch system send the signal to all processes of a command. A new process
    inherits what is blocked here; a signal that arrives meanwhile is delivered when the context is left.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing.resource_tracker import ensure_running

    ensure_running()  # started inside the block, it would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
