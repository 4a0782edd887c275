"""Which processes work in a folder, by /proc: children keep the folder when their parents are gone."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

PROC = Path("/proc")
LISTEN = "0A"
AGENTS = {"ray::DashboardA", "ray::RuntimeEnv"}
"""What Ray leaves for a minute when it is killed: idle, they try to tell of it."""


def inhabitants(folder: Path) -> dict[int, str]:
    """The living processes whose working folder is `folder`, and their names (15 letters at most)."""
    found = {}
    for place in PROC.glob("[0-9]*"):
        try:
            if (place / "cwd").readlink() == folder:
                found[int(place.name)] = (place / "comm").read_text().strip()
        except OSError:  # it ended, or is a zombie
            continue
    return found


def listening(processes: Iterable[int]) -> set[str]:
    """The addresses at which any of these processes listens for TCP."""
    sockets = {}
    for name, size in (("tcp", 8), ("tcp6", 32)):
        for line in (PROC / "net" / name).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == LISTEN:
                sockets[f"socket:[{words[9]}]"] = _address(words[1][:size])
    return {sockets[link] for process in processes for link in _files(process) if link in sockets}


def _files(process: int) -> list[str]:
    try:
        return [str(file.readlink()) for file in (PROC / str(process) / "fd").iterdir()]
    except OSError:
        return []


def _address(digits: str) -> str:
    """The kernel writes each four bytes backwards."""
    raw = bytes.fromhex(digits)
    plain = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    address: IPv4Address | IPv6Address | None = ip_address(plain)
    return str(getattr(address, "ipv4_mapped", None) or address)
