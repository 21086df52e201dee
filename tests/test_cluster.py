"""A cluster started by `ray start` in other processes: README's way works, and what cannot work says what to do."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from test_session import LEARN, expected, run_python

RAY = str(Path(sys.executable).with_name("ray"))
TELL = """
    import time
    import td_helpers as td
    begin = time.monotonic()
    try:
        td.start_ray()
    except ConnectionError as error:
        print(f"{time.monotonic() - begin:.0f} {error}")
"""


def told(**environment) -> str:
    """What start_ray raises, in one sentence and within 30 s."""
    seconds, problem = run_python(TELL, **environment).strip().split(" ", 1)
    assert int(seconds) < 30 and "\n" not in problem
    return problem


@pytest.fixture(scope="module")
def head():
    """A head node as README starts it: its address, and the environment of a user who has its token."""
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


def test_a_run_on_a_cluster_has_the_bits_of_one_core(head):
    """With nothing set but RAY_ADDRESS, from a folder where the workers cannot import the module."""
    address, user = head
    code = """
    learn(bits)
    print(json.dumps([bits, sys.argv, ray.get_runtime_context().gcs_address]))
    """
    bits, _, joined = json.loads(run_python(LEARN + code, RAY_ADDRESS=address, **user))
    assert bits == [expected()]
    assert joined == address


def test_auto_joins_the_cluster_of_this_machine(head):
    address, user = head
    code = "import ray, td_helpers as td; td.start_ray(); print(ray.get_runtime_context().gcs_address)"
    assert run_python(code, RAY_ADDRESS="auto", **user).strip() == address


@pytest.mark.parametrize("token", [{}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"}])
def test_a_missing_or_wrong_token_is_told(head, token, tmp_path):
    address, _ = head
    problem = told(RAY_ADDRESS=address, HOME=str(tmp_path), **token)
    assert f"RAY_ADDRESS={address} asks for a token" in problem
    assert "copy the head node's ~/.ray/auth_token" in problem


@pytest.fixture(params=["silent", "http"])
def stranger(request):
    """The address of a listener that is not Ray: one says nothing, one is a web server."""
    with socket.create_server(("", 0)) as server:

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connections.append(connection)
                if request.param == "http":
                    connection.recv(1000)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        connections = []
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            connection.close()


def test_a_listener_that_is_not_ray_is_told(stranger):
    problem = told(RAY_ADDRESS=stranger)
    assert f"RAY_ADDRESS={stranger}" in problem
    assert "start a cluster there, or unset RAY_ADDRESS" in problem


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:1"),
        ("ray://127.0.0.1:10001", "Ray Client, which is not supported: run this on a node of the cluster"),
        ("nonsense", "RAY_ADDRESS=nonsense is not of the form host:port"),
    ],
)
def test_an_address_that_cannot_work_is_told(address, problem):
    assert problem in told(RAY_ADDRESS=address)
