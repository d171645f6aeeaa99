"""The systems that are compared, and how a command is run in each."""
from __future__ import annotations

import os
from dataclasses import dataclass

from . import processes

# The same small environment everywhere: sandboxes differ in what they pass on.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
RINGFENCE_PLATFORMS = ("kvm", "trap")
PEER_PLATFORMS = ("systrap", "ptrace")


@dataclass(frozen=True)
class System:
    name: str
    prefix: tuple[str, ...]  # what a command line begins with to run in this system
    scratch: str  # where programs make files, as seen inside

    @property
    def family(self) -> str:
        return self.name.partition(":")[0]


def known(ringfence: str, peer: str | None, native_scratch: str) -> list[System]:
    """All systems, in the order that they are shown in. A peer is there only if its path is given."""
    found = [System("native", (), native_scratch)]
    for platform in RINGFENCE_PLATFORMS:
        found.append(System(f"ringfence:{platform}", (ringfence, "run", f"--platform={platform}", "--"), "/tmp"))
    if peer is not None:
        rootless = ("--rootless",) if os.geteuid() != 0 else ()
        for platform in PEER_PLATFORMS:
            prefix = (peer, *rootless, "--ignore-cgroups", "--network=none", f"--platform={platform}", "do")
            found.append(System(f"runsc:{platform}", prefix, "/tmp"))
    return found


def why_absent(system: System, environment: dict[str, str]) -> str | None:
    """None if a program can be run in the system, or else why not."""
    if system.prefix and not os.access(system.prefix[0], os.X_OK):
        return f"{system.prefix[0]} is not there, or may not be executed"
    timeout = 30
    return processes.execute([*system.prefix, "/bin/true"], environment, timeout).complaint(timeout)


def native_scratch() -> str:
    """A directory in memory, as a sandbox's /tmp is: /dev/shm, or the usual one where that is no tmpfs."""
    try:
        with open("/proc/mounts", encoding="utf-8") as file:
            in_memory = any(line.split()[1:3] == ["/dev/shm", "tmpfs"] for line in file)
    except OSError:
        in_memory = False
    return "/dev/shm" if in_memory and os.access("/dev/shm", os.W_OK) else os.environ.get("TMPDIR", "/tmp")
