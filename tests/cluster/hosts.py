"""Four hosts on one machine: a laptop (h0), a head (h1) and two workers (h2, h3).

Each is a set of namespaces (network, PID, mount, UTS, IPC) with its own /root, /tmp, /run and
sshd, which share /mnt/shared and this Python environment. Their switch is in a namespace of its
own: nothing is added to the machine's network, nothing leads out, and several sets can be up.
All that there is of a set is in its directory and in the namespaces named after it.

    python -m tests.cluster.hosts up               makes a set, prints its directory
    python -m tests.cluster.hosts exec DIR h0 'ray status'
    python -m tests.cluster.hosts down DIR         powers the hosts off, leaves nothing
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.processes import wait_until

LAPTOP, HEAD, *WORKERS = HOSTS = ("h0", "h1", "h2", "h3")
SHARED = Path("/mnt/shared")

_PACKAGES = {"ip": "iproute2", "sshd": "openssh-server", "ssh": "openssh-client", "rsync": "rsync"}
_SSHD_CONFIG = """
ListenAddress {address}
HostKey /root/sshd/hostkey
PidFile none
UsePAM no
UseDNS no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxSessions 100
Subsystem sftp internal-sftp
"""


def address(host: str) -> str:
    """A host's address on the hosts' own network."""
    return f"10.78.0.{10 + HOSTS.index(host)}"


def missing() -> str | None:
    """Why there can be no such hosts here; None if there can be."""
    if os.geteuid() != 0:
        return "needs root"
    for command, package in _PACKAGES.items():
        if shutil.which(command, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            return f"needs {command}: apt-get install {package}"
    trial = f"mt-{os.getpid()}"
    try:
        _run("unshare", "--fork", "--pid", "--mount", "--uts", "--ipc", "--mount-proc", "true")
        _run("ip", "netns", "add", trial)
        try:
            _run("ip", "-n", trial, "link", "add", "br0", "type", "bridge")
        finally:
            _run("ip", "netns", "del", trial)
    except (OSError, subprocess.CalledProcessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip()
        return f"needs a machine that lets root make namespaces: {said}"
    return None


@contextmanager
def running() -> Iterator[Path]:
    """A set of hosts for the time of a ``with``; gives its directory.

    Raises:
        AssertionError: something of it was left.
    """
    directory = up()
    try:
        yield directory
    finally:
        down(directory)


def up() -> Path:
    """Makes a set of hosts and returns its directory."""
    # Not in /tmp, which a host doesn't see.
    directory = Path(tempfile.mkdtemp(prefix="mt-hosts-", dir="/var/tmp"))
    try:
        (directory / "shared").mkdir()
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / "key"))
        switch = _namespace(directory, "sw")
        _run("ip", "netns", "add", switch)
        _run("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", switch, "link", "set", "br0", "up")
        for host in HOSTS:
            _furnish(directory, host)
            _connect(directory, host)
            power_on(directory, host)
        key = directory / LAPTOP / "root" / ".ssh" / "id_ed25519"
        shutil.copy(directory / "key", key)
        for host in HOSTS:
            greet = f"exec 3<>/dev/tcp/{address(host)}/22 && head -c 3 <&3"
            wait_until(
                lambda greet=greet: execute(directory, LAPTOP, greet).stdout == "SSH",
                *(20, f"sshd on {host}"),
            )
    except BaseException:
        down(directory)
        raise
    return directory


def down(directory: Path) -> None:
    """Powers all hosts off and removes all there is of them.

    Raises:
        AssertionError: something is left.
    """
    for host in HOSTS:
        power_off(directory, host)
    wait_until(lambda: not _processes(directory), 20, f"no process of {directory} left")
    for name in ("sw", *HOSTS):
        with suppress(subprocess.CalledProcessError):
            _run("ip", "netns", "del", _namespace(directory, name))
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(directory) not in mounts, f"{directory}: something is mounted from it or in it"
    names = _run("ip", "netns", "list").stdout
    assert directory.name not in names, f"{directory}: its network namespaces are left"
    shutil.rmtree(directory)


def power_on(directory: Path, host: str) -> None:
    """Starts a host."""
    inside = [
        *("ip", "netns", "exec", _namespace(directory, host)),
        *("unshare", "--fork", "--pid", "--mount", "--uts", "--ipc", "--mount-proc"),
        *("--kill-child", "env", "-i", f"PATH={os.environ['PATH']}:/usr/sbin:/sbin", "HOME=/root"),
        *("LANG=C.UTF-8", "bash", str(Path(__file__).with_name("host.sh"))),
        *(host, str(directory / host), str(directory / "shared"), *_visible()),
    ]
    # In its own session, and nobody's child: it ends when it's powered off.
    alone = ("setsid", "--fork", "bash", "-c", 'echo $$ >"$0" && exec "$@"')
    with (directory / f"{host}.log").open("ab") as log:
        subprocess.run(
            [*alone, directory / f"{host}.pid", *inside],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=True,
        )
    wait_until(lambda: _first_process(directory, host), 20, f"the first process of {host}")


def power_off(directory: Path, host: str) -> None:
    """Ends a host as a power failure does: nobody on the network is told."""
    first = _first_process(directory, host)
    if first is None:
        return
    with suppress(subprocess.CalledProcessError):
        link(directory, host, "down")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: _first_process(directory, host) is None, 20, f"the end of {host}")


def link(directory: Path, host: str, state: str) -> None:
    """Pulls a host's cable at the switch (``down``), or plugs it in (``up``)."""
    _run("ip", "-n", _namespace(directory, "sw"), "link", "set", host, state)


def entering(directory: Path, host: str, command: str) -> list[str]:
    """What runs a line of bash as root at a host, where an ssh login would."""
    first = _first_process(directory, host)
    assert first is not None, f"{host} is off"
    return [
        *("nsenter", "-t", str(first), "-m", "-u", "-i", "-n", "-p", "--wdns=/root"),
        *("env", "-i", "HOME=/root", "USER=root", "LANG=C.UTF-8", "TERM=dumb"),
        *("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "bash", "-c", f"source ~/.bashrc; {command}"),
    ]


def execute(
    directory: Path, host: str, command: str, timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """Runs a line of bash at a host."""
    return subprocess.run(
        entering(directory, host, command),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def _furnish(directory: Path, host: str) -> None:
    """Writes a host's own files."""
    own = directory / host
    for place in ("tmp", "etc", "root/.ssh", "root/sshd"):
        (own / place).mkdir(parents=True)
    (own / "tmp").chmod(0o1777)
    (own / "root").chmod(0o700)
    names = "".join(f"{address(name)} {name}\n" for name in HOSTS)
    (own / "etc" / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
    (own / "etc" / "resolv.conf").touch()
    shutil.copy(directory / "key.pub", own / "root" / ".ssh" / "authorized_keys")
    (own / "root" / "sshd" / "config").write_text(_SSHD_CONFIG.format(address=address(host)))
    hostkey = own / "root" / "sshd" / "hostkey"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(hostkey))
    # mnist-tune is installed here already; what runs is the copy that `ray up` brings.
    (own / "root" / ".bashrc").write_text(
        f"export PATH={sys.prefix}/bin:$PATH PYTHONPATH=/root/mnist-tune\n"
        "export PYTHONDONTWRITEBYTECODE=1 RAY_USAGE_STATS_ENABLED=0\n"
    )


def _connect(directory: Path, host: str) -> None:
    """Makes a host's network: a cable to the switch."""
    switch, own = _namespace(directory, "sw"), _namespace(directory, host)
    _run("ip", "netns", "add", own)
    cable = ("type", "veth", "peer", "name", "eth0", "netns", own)
    _run("ip", "-n", switch, "link", "add", host, *cable)
    _run("ip", "-n", switch, "link", "set", host, "master", "br0", "up")
    _run("ip", "-n", own, "link", "set", "lo", "up")
    _run("ip", "-n", own, "addr", "add", f"{address(host)}/24", "dev", "eth0")
    _run("ip", "-n", own, "link", "set", "eth0", "up")


def _first_process(directory: Path, host: str) -> int | None:
    """The process that is a host's PID 1, as seen from here; None if the host is off."""
    try:
        parent = int((directory / f"{host}.pid").read_text())
        child = int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])
        line = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
    except (OSError, ValueError, IndexError):
        return None
    # Numbers are used again: it's the host's only if it says so.
    return child if str(directory / host) in line else None


def _processes(directory: Path) -> list[int]:
    """The processes in the hosts' networks, however they came there."""
    networks = {path.stat().st_ino for path in Path("/run/netns").glob(f"{directory.name}-*")}
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "ns" / "net").stat().st_ino in networks:
                found.append(int(entry.name))
    return found


def _visible() -> list[str]:
    """What a host needs of this machine: the Python environment."""
    return [sys.base_prefix, sys.prefix]


def _namespace(directory: Path, name: str) -> str:
    return f"{directory.name}-{name}"


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return subprocess.run(
        command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )


def main() -> None:
    """Does what the command line says."""
    match sys.argv[1:]:
        case ["up"]:
            sys.stdout.write(f"{up()}\n")
        case ["exec", directory, host, command]:
            done = subprocess.run(entering(Path(directory), host, command), check=False)
            raise SystemExit(done.returncode)
        case ["down", directory]:
            down(Path(directory))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
