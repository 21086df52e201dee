"""Simulate a small network of machines on this one: network namespaces, and a switch that delays, drops and cuts.

Run as a program, it is the switch: it reads orders from stdin, one per line: `delay SECONDS`, `loss SHARE`, `cut NODE`,
`reconnect NODE`. It forwards frames itself, since many kernels lack tc's netem.
"""

import contextlib
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time
import uuid

TUNSETIFF, TAP, WITHOUT_HEADER = 0x400454CA, 0x0002, 0x1000
ETHERNET_BROADCAST = 1  # this bit also marks multicast


class Network:
    """A number of machines, at 10.77.0.1 and following addresses; `popen(node, command)` starts a command on one."""

    def __init__(self, nodes: int):
        tag = uuid.uuid4().hex[:6]
        self.names = [f"td{tag}n{node}" for node in range(nodes)]
        self.switch = None
        try:
            for name in self.names:
                ip("netns", "add", name)
            command = [sys.executable, __file__, *self.names]
            self.switch = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert self.switch.stdout.readline() == "ready\n"
        except BaseException:
            self.close()
            raise

    def order(self, *words) -> None:
        """Send an order to the switch."""
        print(*words, file=self.switch.stdin, flush=True)

    def popen(self, node: int, command: list, **options) -> subprocess.Popen:
        """Start a command on a machine."""
        return subprocess.Popen(["ip", "netns", "exec", self.names[node], *command], **options)

    @staticmethod
    def address(node: int) -> str:
        """Return the address of a machine."""
        return f"10.77.0.{node + 1}"

    def close(self) -> None:
        """Stop the switch and remove the machines."""
        if self.switch:
            self.switch.stdin.close()
            self.switch.wait(timeout=10)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def ip(*words: str) -> None:
    """Run iproute2's `ip`; raise CalledProcessError if it fails."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


def plug(node: int, name: str) -> int:
    """Add a network card to a namespace; return its cable, a file descriptor."""
    cable = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(cable, TUNSETIFF, struct.pack("16sH", name.encode(), TAP | WITHOUT_HEADER))
    ip("link", "set", name, "netns", name)
    ip("-n", name, "addr", "add", f"{Network.address(node)}/24", "dev", name)
    ip("-n", name, "link", "set", "lo", "up")
    ip("-n", name, "link", "set", name, "up", "mtu", "9000")
    ip("-n", name, "route", "add", "default", "dev", name)  # Ray finds its address by the default route
    return cable


class Switch:
    """A switch that forwards frames between cables."""

    def __init__(self, names: list[str]):
        self.cables = [plug(node, name) for node, name in enumerate(names)]
        self.delay, self.loss, self.cuts = 0.0, 0.0, set()
        self.places, self.waiting, self.count, self.draws = {}, [], 0, random.Random(1)

    def run(self) -> None:
        """Forward frames and obey orders until stdin ends."""
        print("ready", flush=True)
        while True:
            pause = max(0.0, self.waiting[0][0] - time.monotonic()) if self.waiting else None
            readable = select.select([sys.stdin.fileno(), *self.cables], [], [], pause)[0]
            for cable in readable:
                if cable == sys.stdin.fileno():
                    orders = os.read(cable, 4096).decode()
                    if not orders:
                        return
                    for line in orders.splitlines():
                        self.obey(*line.split())
                else:
                    self.take(cable)
            while self.waiting and self.waiting[0][0] <= time.monotonic():
                *_, cable, frame = heapq.heappop(self.waiting)
                self.send(cable, frame)

    def obey(self, order: str, value: str) -> None:
        """Apply an order to the network."""
        if order in ("delay", "loss"):
            setattr(self, order, float(value))
        elif order == "cut":
            self.cuts.add(self.cables[int(value)])
        else:
            self.cuts.discard(self.cables[int(value)])

    def take(self, cable: int) -> None:
        """Schedule the frames from a cable, or drop them."""
        for _ in range(64):
            try:
                frame = os.read(cable, 65536)
            except BlockingIOError:
                return
            self.places[frame[6:12]] = cable
            to = self.places.get(frame[:6]) if not frame[0] & ETHERNET_BROADCAST else None
            for other in [to] if to else [each for each in self.cables if each != cable]:
                if self.draws.random() >= self.loss and not self.cuts & {cable, other}:
                    self.count += 1  # keeps the order of frames that are due at once
                    heapq.heappush(self.waiting, (time.monotonic() + self.delay, self.count, other, frame))

    def send(self, cable: int, frame: bytes) -> None:
        """Write a frame to a cable; drop it if the queue is full, as any switch does."""
        with contextlib.suppress(OSError):
            os.write(cable, frame)


def why_not() -> str | None:
    """Return why this machine cannot have such a network, or None."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "needs root on Linux to make network namespaces"
    if not os.access("/dev/net/tun", os.W_OK):
        return "needs /dev/net/tun"
    try:
        Network(1).close()
    except (OSError, AssertionError, subprocess.CalledProcessError) as error:
        return f"cannot make network namespaces here: {error}"
    return None


if __name__ == "__main__":
    Switch(sys.argv[1:]).run()
