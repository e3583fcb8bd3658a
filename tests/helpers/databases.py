"""Servers for the tests of storages: a PostgreSQL of their own, and Optuna's gRPC proxy."""

import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from optuna.storages import run_grpc_proxy_server

from nas.search.storage import connect


def postgresql_program(name: str) -> str:
    """The path of one of PostgreSQL's programs, which Debian keeps out of PATH; skips if none."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    program = shutil.which(name) or (str(found[-1]) if found else None)
    if program is None:
        pytest.skip(f"PostgreSQL is not installed: no {name}")
    return program


@contextmanager
def postgresql() -> Iterator[str]:
    """The URL of an empty database on a new server, reached by a socket file."""
    pytest.importorskip("psycopg", reason="PostgreSQL's driver, psycopg, is not installed")
    initdb, postgres = map(postgresql_program, ("initdb", "postgres"))
    user = "nobody" if os.getuid() == 0 else None  # PostgreSQL refuses to run as root
    # Not pytest's folder: another user may not enter it, and its path is too long for a socket.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if user:
            shutil.chown(folder, user)
        subprocess.run(
            [initdb, "-D", folder / "data", "-A", "trust", "-U", "tester", "--no-sync"],
            user=user,
            check=True,
            capture_output=True,
        )
        server = subprocess.Popen(
            [postgres, "-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-F"],
            user=user,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(folder / ".s.PGSQL.5432", server)
            yield f"postgresql+psycopg://tester@/postgres?host={folder}"
        finally:
            server.send_signal(signal.SIGINT)  # ends without waiting for the clients
            server.wait(60)


def wait_for(path: Path, server: subprocess.Popen[bytes]) -> None:
    """Returns once a server listens on its socket file."""
    deadline = time.monotonic() + 60
    while True:
        assert server.poll() is None
        assert time.monotonic() < deadline
        with socket.socket(socket.AF_UNIX) as client:
            if client.connect_ex(str(path)) == 0:
                return
        time.sleep(0.02)


@contextmanager
def grpc_proxy(folder: Path) -> Iterator[str]:
    """The URL of a proxy in a process of its own, with a SQLite database behind it."""
    pytest.importorskip("grpc", reason="gRPC, grpcio, is not installed")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    server = context.Process(target=serve, args=(folder, port), daemon=True)
    server.start()
    try:
        yield f"grpc://localhost:{port}"
    finally:
        server.kill()
        server.join(60)


def serve(folder: Path, port: int) -> None:
    storage = connect(f"sqlite:///{folder}/proxied.db", folder)
    # Threads of one process do not wait for each other's SQLite transactions as processes do.
    pool = ThreadPoolExecutor(1)
    run_grpc_proxy_server(storage, host="localhost", port=port, thread_pool=pool)
