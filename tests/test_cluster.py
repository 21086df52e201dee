"""A cluster started by `ray start`: the README's commands work, and errors say what to do."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import network
import pytest
from test_session import LEARN, ROOT, expected, run_python

import td_helpers as td

RAY = str(Path(sys.executable).with_name("ray"))
CONNECT = """
    import json, os, time
    import td_helpers as td

    def error_for(address):
        os.environ["RAY_ADDRESS"], begin = address, time.monotonic()
        try:
            td.start_ray()
        except ConnectionError as error:
            return time.monotonic() - begin, str(error)

    print(json.dumps([error_for(address) for address in json.loads(os.environ["ADDRESSES"])]))
"""


def errors_for(*addresses, **environment) -> list[str]:
    """Return the error of start_ray for each address: one line, within 30 s."""
    found = json.loads(run_python(CONNECT, ADDRESSES=json.dumps(addresses), **environment))
    assert all(seconds < 30 and "\n" not in problem for seconds, problem in found)
    return [problem for _, problem in found]


@pytest.fixture(scope="module")
def head():
    """A head node started as in the README: its address, and the environment of a user with its token."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_") and key != "PYTHONPATH"}
        user = {"HOME": folder, "RAY_TMPDIR": folder}
        subprocess.run([RAY, "get-auth-token", "--generate"], env=kept | user, check=True, capture_output=True)
        command = [RAY, "start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
        process = subprocess.Popen(
            command, env=kept | user | {"RAY_AUTH_MODE": "token"}, cwd="/", stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            lines = iter(process.stdout.readline, "")
            address = next(found[1] for line in lines if (found := re.search(r"--address='(\S+)'", line)))
            yield address, user
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


@pytest.fixture(scope="module")
def joined(head):
    """What a script observes that joins the cluster, by its address and then by "auto"."""
    address, user = head
    code = """
    import os

    def joined():
        return ray.get_runtime_context().gcs_address

    learn(bits)
    seen = {"bits": bits, "by address": joined()}
    ray.shutdown()
    os.environ["RAY_ADDRESS"] = "auto"
    td.start_ray()
    print(json.dumps(seen | {"auto": joined()}))
    """
    return json.loads(run_python(LEARN + code, RAY_ADDRESS=address, **user))


def test_a_run_on_a_cluster_has_the_bits_of_one_core(head, joined):
    """With nothing set but RAY_ADDRESS, from a folder where the workers cannot import the module."""
    assert joined["bits"] == [expected()]
    assert joined["by address"] == head[0]


def test_auto_joins_the_cluster_of_this_machine(head, joined):
    assert joined["auto"] == head[0]


@pytest.mark.parametrize("token", [{}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"}], ids=["missing", "wrong"])
def test_a_missing_or_wrong_token_is_told(head, token, tmp_path):
    address, _ = head
    (problem,) = errors_for(address, HOME=str(tmp_path), **token)
    assert f"RAY_ADDRESS={address} asks for a token" in problem
    assert "copy the head node's ~/.ray/auth_token" in problem


@contextlib.contextmanager
def listener(answer: bytes):
    """Yield the address of a server that accepts connections and sends `answer`, if any, to each request."""
    with socket.create_server(("", 0)) as server:

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connections.append(connection)
                if answer:
                    connection.recv(1000)
                    connection.sendall(answer)

        connections = []
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            connection.close()


WRONG = {
    "127.0.0.1:1": "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:1",
    "ray://127.0.0.1:10001": "Ray Client, which is not supported: run this on a node of the cluster",
    "nonsense": "RAY_ADDRESS must be host:port, local or auto, got nonsense",
}


@pytest.fixture(scope="module")
def wrong():
    """The errors for addresses without a cluster, including a silent listener and a web server."""
    with (
        listener(b"") as silent,
        listener(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") as http,
    ):
        *problems, of_silent, of_http = errors_for(*WRONG, silent, http)
    return dict(zip(WRONG, problems, strict=True)) | {"silent": (silent, of_silent), "http": (http, of_http)}


@pytest.mark.parametrize("kind", ["silent", "http"])
def test_a_listener_that_is_not_ray_is_told(wrong, kind):
    address, problem = wrong[kind]
    assert f"RAY_ADDRESS={address}" in problem
    assert "start a cluster there, or unset RAY_ADDRESS" in problem


@pytest.mark.parametrize("address", WRONG)
def test_an_address_that_cannot_work_is_told(wrong, address):
    assert WRONG[address] in wrong[address]


MANY = """
    import json, threading, time
    import ray
    import td_helpers as td

    def learn(workers, tell=False):
        agent = td.DistributedQLAgent(td.FrozenLakeEnv(map_name="16x16"), workers=workers, **SETTINGS)
        if tell:
            threading.Thread(target=announce, args=(agent,), daemon=True).start()
        agent.learn_and_evaluate(progress=False)
        print(json.dumps([agent.q_table.tobytes().hex(), agent.total_rewards, agent.steps]), flush=True)

    def announce(agent):
        while agent.episode < 2000:
            time.sleep(0.001)
        print("under way", flush=True)

    td.start_ray()
    assert len(ray.nodes()) == 3
    with td.Workers(3, 2) as workers:
        learn(workers)
        learn(workers, tell=True)
"""
SETTINGS = {"learning_episodes": 60_000, "test_interval": 1000, "cw_num": 3, "ew_num": 2, "batch_size": 100}
QUICK_TO_GIVE_UP = {  # an unreachable node is declared dead after 10 s, not 60
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}


@pytest.fixture
def cluster(request):
    """Three machines with their own network, and a user's environment; a parameter holds Ray's settings."""
    settings = getattr(request, "param", QUICK_TO_GIVE_UP)
    reason = network.why_not()
    if reason:
        pytest.skip(reason)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_") and key != "PYTHONPATH"}
    machines, processes = network.Network(3), []
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        user = kept | {"HOME": folder, "RAY_TMPDIR": folder, "RAY_ADDRESS": f"{machines.address(0)}:6379"}
        subprocess.run([RAY, "get-auth-token", "--generate"], env=user, check=True, capture_output=True)
        try:
            for node in range(3):
                role = ["--head", "--port=6379", "--include-dashboard=false"]
                command = [
                    RAY, "start", "--block", f"--node-ip-address={machines.address(node)}", "--num-cpus=2",
                    "--object-store-memory=100000000", *([f"--address={user['RAY_ADDRESS']}"] if node else role),
                ]  # fmt: skip
                process = machines.popen(
                    node, command, env=user | settings | {"RAY_AUTH_MODE": "token", "RAY_ADDRESS": ""}, cwd="/",
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
                )  # fmt: skip
                processes.append(process)
                assert any("Ray runtime started" in line for line in iter(process.stdout.readline, ""))
            yield machines, user
        finally:
            for process in reversed(processes):
                process.send_signal(signal.SIGTERM)
            for process in processes:
                process.communicate(timeout=60)
            machines.close()


@pytest.mark.long
def test_a_slow_lossy_network_and_a_node_cut_off_for_30_seconds_change_no_bit(cluster):
    machines, user = cluster
    agent = td.DistributedQLAgent(td.FrozenLakeEnv(map_name="16x16"), workers=td.InProcess(), **SETTINGS)
    agent.learn_and_evaluate(progress=False)
    bits = [agent.q_table.tobytes().hex(), agent.total_rewards, agent.steps]
    machines.order("delay", 0.01)
    machines.order("loss", 0.01)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nSETTINGS = {SETTINGS}\n" + textwrap.dedent(MANY)
    driver = machines.popen(0, [sys.executable, "-c", code], env=user, cwd="/", stdout=subprocess.PIPE, text=True)
    lines = (line for line in iter(driver.stdout.readline, "") if line.startswith(("[[", '["', "under way")))
    assert json.loads(next(lines)) == bits
    assert next(lines) == "under way\n"
    machines.order("cut", 2)
    mending = threading.Timer(30, machines.order, ("reconnect", 2))
    mending.start()
    try:
        assert json.loads(next(lines)) == bits
        mending.join()
        assert driver.wait(timeout=60) == 0
    finally:
        mending.cancel()
        driver.kill()
        driver.wait()
