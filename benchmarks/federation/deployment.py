"""SuperLink, SuperNodes and runs."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.federation.credentials import Certificates, make_certificates, make_key
from benchmarks.federation.processes import Process, end_all, free_port, until

Values = Mapping[str, str | int | float | bool]

_ROOT = Path(__file__).parent.parent.parent
_BIN = Path(sys.executable).parent  # not resolved: an environment's python is a link
_START = 60.0  # seconds that a process has to start
_PAUSE = 10.0  # seconds until a SuperNode that was turned away tries again
_TURNED_AWAY = 120.0  # seconds that a SuperLink turns a node away at most which was killed


class Federation:
    """A SuperLink with its SuperNodes; a context manager, at whose end all processes have ended.

    Parameters
    ----------
    folder : Path
        For logs, keys, and what Flower itself writes.
    secure : bool (default: True)
        With TLS and node authentication, or with neither.

    Attributes
    ----------
    superlink : Process
        The SuperLink.
    nodes : list[Node]
        The SuperNodes, in the order in which they were added.
    """

    def __init__(self, folder: Path, *, secure: bool = True) -> None:
        self.folder = folder
        self.port = free_port()
        self.certificates: Certificates | None = make_certificates(folder) if secure else None
        self.nodes: list[Node] = []
        self._runs: list[Process] = []
        self._write_flwr_config()
        self.superlink = Process(
            [_command("flower-superlink"), "--port", str(self.port), *self._server_options()],
            log=folder / "superlink.log",
            env=self.environment(),
        )

    def __enter__(self) -> "Federation":
        try:
            self.superlink.wait_for("Uvicorn running on", _START)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """End all processes."""
        end_all([*self._runs, *(node.process for node in self.nodes), self.superlink])

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of the federation's processes."""
        return {
            **os.environ,
            "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",  # Flower starts its programs by their names
            "PYTHONPATH": str(_ROOT),
            "FLWR_HOME": str(self.folder / "flwr"),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            **(more or {}),
        }

    def log(self) -> str:
        """Return what the SuperLink and its ServerApps have printed."""
        return self.superlink.output()

    def add_node(
        self, config: Values | None = None, *, env: Mapping[str, str] | None = None, port: int | None = None
    ) -> "Node":
        """Start a SuperNode.

        Parameters
        ----------
        config : Mapping[str, str | int | float | bool], optional
            Its node config.
        env : Mapping[str, str], optional
            Variables of its environment, beside those that all have.
        port : int, optional
            Where it finds the SuperLink, if not there where it is: the port of a proxy.
        """
        node = Node(self, len(self.nodes), {"node": len(self.nodes), **(config or {})}, env or {}, port or self.port)
        self.nodes.append(node)
        return node

    def submit(self, app: Path, config: Values | None = None) -> "Run":
        """Start a run of an app: ``flwr run``."""
        options = ["--run-config", _toml(config)] if config else []
        log = self.folder / f"run-{len(self._runs)}.log"
        process = Process([_command("flwr"), "run", str(app), *options, "--stream"], log=log, env=self.environment())
        self._runs.append(process)
        return Run(self, process)

    def flwr(self, *arguments: str) -> dict[str, Any]:
        """Run ``flwr`` and return the JSON that it prints."""
        command = [_command("flwr"), *arguments, "--format", "json"]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=_START)
        if done.returncode:
            raise RuntimeError(f"flwr {' '.join(arguments)} failed: {done.stdout}{done.stderr}")
        answer: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
        return answer

    def _server_options(self) -> list[str]:
        if self.certificates is None:
            return ["--insecure"]
        return [
            *("--ssl-ca-certfile", str(self.certificates.authority)),
            *("--ssl-certfile", str(self.certificates.server)),
            *("--ssl-keyfile", str(self.certificates.key)),
            "--enable-supernode-auth",
        ]

    def _write_flwr_config(self) -> None:
        """Tell ``flwr`` where the SuperLink is."""
        trust = "insecure = true"
        if self.certificates is not None:
            trust = f'root-certificates = "{self.certificates.authority}"'
        config = self.folder / "flwr" / "config.toml"
        config.parent.mkdir()
        config.write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{self.port}"\n{trust}\n'
        )


class Node:
    """A SuperNode, which can be killed and started again.

    Attributes
    ----------
    name : int
        Its place in the federation, also in its node config.
    id : int
        The id that Flower gave it, which its reply's metadata has.
    process : Process
        Its process, the present one.
    """

    def __init__(self, federation: Federation, name: int, config: Values, env: Mapping[str, str], port: int) -> None:
        self.name = name
        self._federation = federation
        self._env = federation.environment(env)
        self._options = [*("--superlink", f"127.0.0.1:{port}"), *("--node-config", _toml(config))]
        if federation.certificates is None:
            self._options += ["--insecure"]
        else:
            key = make_key(federation.folder, f"node-{name}")
            federation.flwr("supernode", "register", f"{key}.pub")
            self._options += ["--root-certificates", str(federation.certificates.authority)]
            self._options += ["--auth-supernode-private-key", str(key)]
        self.process = self._start()

    @property
    def id(self) -> int:
        """The id that Flower gave it."""
        found = re.search(r"SuperNode ID: (\d+)", self.process.output())
        if found is None:
            raise RuntimeError(f"SuperNode {self.name} is not connected:\n{self.process.output()[-3000:]}")
        return int(found[1])

    def connect(self) -> "Node":
        """Wait until the SuperLink has accepted it."""
        self.process.wait_for("SuperNode ID:", _START)
        return self

    def restart(self) -> None:
        """Start it anew after it was killed, again and again until the SuperLink accepts it."""

        def is_accepted() -> bool:
            if not self.process.is_running:
                self.process.end()
                time.sleep(_PAUSE)
                self.process = self._start()
            return "SuperNode ID:" in self.process.output()

        until(is_accepted, _TURNED_AWAY, f"SuperNode {self.name} is turned away")

    def log(self) -> str:
        """Return what it and its ClientApps have printed, all its processes."""
        return self.process.log.read_text(errors="replace")

    def _start(self) -> Process:
        command = [_command("flower-supernode"), *self._options, "--port", str(free_port())]
        return Process(command, log=self._federation.folder / f"node-{self.name}.log", env=self._env)


class Run:
    """A run of an app."""

    def __init__(self, federation: Federation, process: Process) -> None:
        self._federation = federation
        self._process = process

    @property
    def id(self) -> int:
        """Its id."""
        self._process.wait_for("Successfully started run ", _START)
        found = re.search(r"Successfully started run (\d+)", self._process.output())
        assert found is not None
        return int(found[1])

    def wait(self, seconds: float) -> str:
        """Wait for its end, and return how it ended: ``finished:completed`` or otherwise."""
        self._process.wait(seconds)
        (run,) = self._federation.flwr("list", "--run-id", str(self.id))["runs"]
        return str(run["status"])

    def log(self) -> str:
        """Return what its ServerApp has printed."""
        return self._process.output()


def _command(name: str) -> str:
    return str(_BIN / name)


def _toml(values: Values) -> str:
    """Write settings as Flower's command line reads them."""
    return " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
