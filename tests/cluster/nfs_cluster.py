"""An NFS server and clients with a kernel of their own, all processes of this machine in a network of their own.

The server is nfs-ganesha, a process like any other. A client is User-Mode Linux: a whole kernel as a process, with its
own NFS client, cache, boot and clock, whose SIGKILL is that of a machine that loses power.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from .slurm_cluster import wait_for

READY_WITHIN_S = 60.0
CLIENTS = 2
CLIENT_MEMORY = 4 << 30
PROGRAMS = ("ganesha.nfsd", "linux.uml", "mount.nfs4", "modprobe", "ip", "setpriv", "unshare", "nsenter")
PACKAGES = "user-mode-linux nfs-ganesha nfs-ganesha-vfs kmod iproute2"
# A network that only the server's network namespace has, so nothing of it leaves this machine.
SERVER, CLIENT = "10.77.0.1", "10.77.0.{number}"
# The kernel maps each page of a client's programs by itself: with the usual 65530 a program may have 256 MiB.
MAPS, MOST_MAPS = Path("/proc/sys/vm/max_map_count"), 2_000_000

SERVER_SETTINGS = """
NFS_CORE_PARAM {{ Protocols = 4; Bind_addr = {server}; NFS_Port = 2049; Enable_NLM = false; Enable_RQUOTA = false; }}
NFSv4 {{ RecoveryBackend = fs; RecoveryRoot = "{folder}/recovery"; Grace_Period = 5; Only_Numeric_Owners = true; }}
EXPORT {{
  Export_Id = 1; Path = "{folder}/export"; Pseudo = "/data"; FSAL {{ Name = VFS; }}
  Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Protocols = 4; Transports = TCP;
}}
"""

# Replaced by the server in the end: the network lasts as long as the process.
SERVER_START = """
set -e
ip link set lo up
ip link add bridge0 type bridge
ip address add {server}/24 dev bridge0
ip link set bridge0 up
for number in {numbers}; do
  ip tuntap add dev tap$number mode tap
  ip link set tap$number master bridge0
  ip link set tap$number up
done
exec ganesha.nfsd -F -f {folder}/ganesha.conf -p {folder}/ganesha.pid -L {folder}/ganesha.log
"""

# This machine's files are the client's, and can't be written to but for the folder in which it tells what it does.
CLIENT_START = """#!/bin/sh
prepare() {{
  mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t tmpfs run /run &&
  mkdir -p /run/home /run/tmp /dev/shm && mount -t tmpfs shm /dev/shm &&
  mount -t hostfs -o {folder} folder {folder} &&
  echo {name} > /proc/sys/kernel/hostname &&
  ip link set lo up && ip link set vec0 up && ip address add {address}/24 dev vec0 &&
  modprobe -d {modules} nfsv4 &&
  mount -v -t nfs4 -o vers=4.2,hard,port=2049 {server}:/data {mount}
}}
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run/home TMPDIR=/run/tmp
if prepare; then
  echo "$(uname -sr) runs the command"
  env {command} > {folder}/stdout 2> {folder}/stderr < /dev/null
  status=$?
  umount {mount} && echo $status > {folder}/status
fi
echo o > /proc/sysrq-trigger
while :; do sleep 1; done
"""


def lacking() -> str:
    """In one line what this machine lacks for a server and clients, and the cure; "" when it has all."""
    if programs := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"not on PATH: {', '.join(programs)}; apt-get install --no-install-recommends {PACKAGES}"
    if os.geteuid() != 0:
        return "not root, which makes network namespaces and mounts; run it as root"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "no /dev/net/tun, by which clients reach the server; load the kernel module tun"
    wanted = CLIENTS * CLIENT_MEMORY
    room = min(psutil.virtual_memory().available, shutil.disk_usage("/dev/shm").free)
    if room < wanted:
        return f"{room / 2**30:.1f} GiB of free memory, and in /dev/shm; {wanted / 2**30:.0f} GiB are wanted"
    return ""


@dataclass
class NfsClient:
    """A kernel that runs one command and ends."""

    folder: Path
    """Holds what the kernel says, `console`, and the command's `stdout`, `stderr` and exit `status`."""
    process: subprocess.Popen[bytes]

    def said(self, name: str) -> str:
        """All that is in a file of `folder` so far."""
        path = self.folder / name
        return path.read_text(errors="replace") if path.exists() else ""

    def is_up(self) -> bool:
        """Whether the kernel runs."""
        return self.process.poll() is None

    def ended(self, within_s: float) -> tuple[int, str]:
        """Exit status of the command and what it said on stderr, once the kernel has ended."""
        self.process.wait(timeout=within_s)
        assert self.said("status"), (self.folder.name, self.said("console")[-2000:], self.said("stderr"))
        return int(self.said("status")), self.said("stderr")

    def kill(self) -> None:
        """End the kernel at once with all that runs on it, as a power cut does."""
        started = psutil.Process(self.process.pid).children(recursive=True) if self.is_up() else []
        self.process.kill()
        self.process.wait()
        _, alive = psutil.wait_procs(started, timeout=READY_WITHIN_S)
        assert not alive, alive


class NfsCluster:
    """The server, and clients as they are started; a context manager, which ends them all.

    `export` is the server's folder as this machine sees it, `mount` the path at which clients have it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.export, self.mount, self.modules = folder / "export", folder / "mount", folder / "modules"
        self.clients: list[NfsClient] = []
        self._server: subprocess.Popen[bytes] | None = None
        self._maps = ""
        for path in (self.export, self.mount, self.modules / "lib", folder / "recovery"):
            path.mkdir(parents=True)
        (self.modules / "lib" / "modules").symlink_to("/usr/lib/uml/modules")
        (folder / "ganesha.conf").write_text(SERVER_SETTINGS.format(server=SERVER, folder=folder))

    def __enter__(self) -> "NfsCluster":
        try:
            self._maps = MAPS.read_text()
            MAPS.write_text(str(max(int(self._maps), MOST_MAPS)))
            numbers = " ".join(map(str, range(CLIENTS)))
            start = SERVER_START.format(server=SERVER, numbers=numbers, folder=shlex.quote(str(self.folder)))
            self._server = self._start(self.folder / "server", "unshare", "--net", "sh", "-c", start)
            wait_for(f"the NFS server, see {self.folder}", self._is_up, READY_WITHIN_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for client in self.clients:
            client.kill()
        if self._server is not None:
            self._server.kill()
            self._server.wait()
        if self._maps:
            MAPS.write_text(self._maps)

    def _is_up(self) -> bool:
        assert self._server is not None and self._server.poll() is None, f"see {self.folder}"
        log = self.folder / "ganesha.log"
        return log.exists() and "NFS SERVER INITIALIZED" in log.read_text()

    def _start(self, says: Path, *words: str) -> subprocess.Popen[bytes]:
        # With this process, should it be killed, all ends.
        with open(says, "wb") as file:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *words], stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> NfsClient:
        """Boot a client of this host name, which mounts the export, runs the command and ends.

        It has no other environment than this, beside PATH, HOME and TMPDIR.
        """
        assert self._server is not None and len(self.clients) < CLIENTS
        number = len(self.clients)
        folder = self.folder / name
        folder.mkdir()
        paths = {"folder": folder, "modules": self.modules, "mount": self.mount}
        given = {key: shlex.quote(str(path)) for key, path in paths.items()}
        given |= {"name": name, "server": SERVER, "address": CLIENT.format(number=10 + number)}
        words = [*(f"{key}={value}" for key, value in environment.items()), *command]
        init = folder / "init"
        init.write_text(CLIENT_START.format(command=shlex.join(words), **given))
        init.chmod(0o755)
        kernel = ["linux.uml", f"mem={CLIENT_MEMORY >> 20}M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/"]
        kernel += ["ro", f"init={init}", f"uml_dir={folder}", "con=null", "con0=null,fd:1", "ssl=null", "quiet"]
        kernel += [f"vec0:transport=tap,ifname=tap{number},depth=64,gro=1"]
        # In a namespace whose first process is a shell, SIGKILL meets all at once. Of the kernel alone it would set its
        # programs free: they are processes of this machine that only the kernel keeps from calling this machine's.
        alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        alone += ["sh", "-c", 'TMPDIR=/dev/shm "$@"; exit $?', name]
        network = ["nsenter", f"--net=/proc/{self._server.pid}/ns/net"]
        client = NfsClient(folder, self._start(folder / "console", *network, *alone, *kernel))
        self.clients.append(client)
        return client
