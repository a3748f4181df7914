"""A cluster on loopback: PostgreSQL, Redis and every process of a deployment, each of which can be killed.

The processes are those of infra/compose.yaml, with its commands; what dies is started again, as there.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PATIENCE = 120.0
#: What infra/compose.yaml tells the clients of S3: they outlast a server that is away for half a minute.
PATIENT = {"config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": 12}}}


def free_port() -> int:
    """A port of this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Look every half second until it is so; AssertionError with what was waited for."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.5)


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def found(program: str, package: str) -> str:
    """The path of a program of Debian's, in or beside the PATH; a test is skipped where it is not."""
    beside = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    path = shutil.which(program) or (str(beside[-1]) if beside else None)
    if path is None:
        pytest.skip(f"no {program}: install Debian's package {package}")
    return path


class Service:
    """One process, its output in `log`; `supervised`, it is begun again when it ends by itself or is killed."""

    def __init__(
        self, name: str, command: Sequence[str], environment: dict[str, str], folder: Path, *, user: str | None = None
    ) -> None:
        self.name, self.command, self.environment, self.folder, self.user = name, command, environment, folder, user
        self.log = folder / f"{name}.log"
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = threading.Event()
        self._lock = threading.Lock()

    def start(self, *, supervised: bool = True) -> Self:
        self._ending.clear()
        self._begin()
        if supervised:
            threading.Thread(target=self._supervise, daemon=True).start()
        return self

    def _begin(self) -> None:
        with self._lock, self.log.open("ab") as log:
            if not self._ending.is_set():
                self.starts += 1
                self._process = subprocess.Popen(
                    self.command,
                    env=self.environment,
                    cwd=self.folder,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    user=self.user,
                )

    def _supervise(self) -> None:
        while not self._ending.wait(0.5):
            if self._process is not None and self._process.poll() is not None:
                self._begin()

    def kill(self) -> None:
        """SIGKILL to it and all it started; its supervisor begins it again."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def stop(self, seconds: float = 15.0, *, by: signal.Signals = signal.SIGTERM) -> None:
        """End it, by force where it does not end by itself."""
        self._ending.set()
        with self._lock:
            process = self._process
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(by)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def told(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Postgres:
    """A PostgreSQL of its own in `folder`, on a loopback port, with the database and the user `dagster`."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.data = folder / "postgresql"
        # PostgreSQL refuses to run as root, and its user must reach the folder.
        self.user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        self.data.mkdir()
        if os.geteuid() == 0:
            shutil.chown(self.data, self.user)
            for parent in [folder, *folder.parents]:
                if parent.stat().st_uid == 0 and len(parent.parts) > 2:
                    parent.chmod(parent.stat().st_mode | 0o011)
        subprocess.run(
            [found("initdb", "postgresql"), "-D", str(self.data), "-A", "trust", "-U", "dagster", "--no-sync"],
            check=True,
            capture_output=True,
            user=self.user,
            cwd="/",
        )
        command = [found("postgres", "postgresql"), "-D", str(self.data), "-p", str(self.port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.data}"]
        self.service = Service("postgres", command, {"PATH": os.environ["PATH"]}, self.data, user=self.user)

    def __enter__(self) -> Self:
        self.service.start(supervised=False)
        self.wait()
        subprocess.run([*self.client("createdb"), "dagster"], check=True, capture_output=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # SIGINT is PostgreSQL's fast shutdown: it does not wait for clients.
        self.service.stop(by=signal.SIGINT)

    def wait(self) -> None:
        ready = [found("pg_isready", "postgresql-client"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL answers")

    def client(self, program: str) -> list[str]:
        return [found(program, "postgresql-client"), "-h", "127.0.0.1", "-p", str(self.port), "-U", "dagster"]

    @property
    def environment(self) -> dict[str, str]:
        """As infra/team/dagster.yaml asks for it."""
        names = {"HOST": "127.0.0.1", "PORT": str(self.port), "DB": "dagster", "USER": "dagster", "PASSWORD": "any"}
        return {f"DAGSTER_POSTGRES_{name}": value for name, value in names.items()}


class Gate:
    """A way to a server on loopback that can be shut: then nobody listens, and what was open is cut."""

    def __init__(self, port: int) -> None:
        self.port = free_port()
        self._to = port
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def shut(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(2**16):
                other.sendall(data)
        with suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open.discard(one)
        one.close()


class Cluster:
    """Every process of a deployment with Celery, for use in a `with` block.

    Args:
        folder: where their files and logs are.
        settings: the `GLR_…` settings and credentials of those that run steps.
    """

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder = folder
        self.settings = settings
        self.postgres = Postgres(folder)
        self.redis_port, self.web_port, code_port = free_port(), free_port(), free_port()
        home = folder / "home"
        home.mkdir()
        shutil.copy(ROOT / "infra" / "team" / "dagster.yaml", home)
        (folder / "workspace.yaml").write_text(
            f"load_from:\n  - grpc_server: {{host: 127.0.0.1, port: {code_port}, location_name: glr_assets}}\n"
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GLR_", "DAGSTER_"))}
        self.environment = kept | self.postgres.environment
        self.environment |= {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "DAGSTER_HOME": str(home),
            "GLR_REDIS_URL": f"redis://127.0.0.1:{self.redis_port}/0",
            "OMP_NUM_THREADS": "1",
        }
        redis = [found("redis-server", "redis-server"), "--port", str(self.redis_port), "--bind", "127.0.0.1"]
        redis += ["--dir", str(folder), "--appendonly", "yes", "--appendfsync", "always"]
        celery = ["celery", "-A", "glr_assets.defs.workers", "worker", "--loglevel", "INFO", "--concurrency", "1"]
        code = ["dagster", "code-server", "start", "-h", "127.0.0.1", "-p", str(code_port)]
        web = ["dagster-webserver", "-h", "127.0.0.1", "-p", str(self.web_port), "-w", str(folder / "workspace.yaml")]
        self.services = {
            service.name: service
            for service in (
                self._service("redis", redis),
                self._service("code", [*code, "-m", "glr_assets.clusters", "-a", "celery"]),
                self._service("cpu", [*celery, "-Q", "dagster", "-n", "cpu@%h"]),
                self._service("gpu", [*celery, "-Q", "gpu", "-n", "gpu@%h"]),
                self._service("lost-steps", ["python", "-m", "glr_assets.defs.lost_steps"]),
                self._service("webserver", web),
                self._service("daemon", ["dagster-daemon", "run", "-w", str(folder / "workspace.yaml")]),
            )
        }
        self._ports = {"redis": self.redis_port, "code": code_port, "webserver": self.web_port}
        self._stack = ExitStack()

    def _service(self, name: str, command: list[str]) -> Service:
        return Service(name, command, self.environment | self.settings, self.folder)

    def run(self, *command: str) -> str:
        """A command as an operator runs it; its output."""
        done = subprocess.run(
            command, env=self.environment | self.settings, cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def __enter__(self) -> Self:
        self._stack.enter_context(self.postgres)
        self.run(str(ROOT / "infra" / "bootstrap.sh"), "1")
        for name, service in self.services.items():
            self._stack.callback(service.stop)
            service.start()
            if name in self._ports:
                wait_until(lambda port=self._ports[name]: listens(port), f"{name} listens", PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def restart_postgres(self, away: float) -> None:
        self.postgres.service.stop(by=signal.SIGINT)
        time.sleep(away)
        self.postgres.service.start(supervised=False)
        self.postgres.wait()
