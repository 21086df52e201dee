"""A private Ray: quick to start, out of reach for others, safe to start from threads, and the user's own respected."""

import ipaddress
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

import td_helpers as td

pytest.importorskip("psutil")  # ipykernel brings it
ROOT = Path(__file__).resolve().parent.parent
RUN = {"learning_episodes": 600, "test_interval": 200, "trials": 3}


def run_python(code: str, timeout: float = 120, **environment) -> str:
    """Run code from another folder, with the module importable by the driver only; what it printed."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + textwrap.dedent(code)
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" and not key.startswith("RAY_")}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd="/", env=kept | environment, capture_output=True, text=True, timeout=timeout
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


def test_importing_ray_compiles_no_grammar():
    """From 4.25 on jsonschema, which ray imports, loads a grammar of URIs: 1.15 s in each process of a run."""
    code = "import json, ray; print(json.dumps([name for name in ('rfc3987_syntax', 'lark') if name in sys.modules]))"
    assert json.loads(run_python(code)) == []


PRIVATE = """
    import json, os, socket, stat, subprocess
    from pathlib import Path
    import psutil, ray
    import td_helpers as td

    td.start_ray()
    workers = td.Workers(2, 1).start()
    node = ray._private.worker._global_node
    session = Path(node.get_session_dir_path())

    def mode(path):
        return stat.S_IMODE(os.stat(path).st_mode)

    def outcome(attempt):
        try:
            attempt()
            return "allowed"
        except Exception as error:
            return type(error).__name__

    def as_nobody(attempts):
        receive, send = os.pipe()
        if not os.fork():
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(send, json.dumps([outcome(attempt) for attempt in attempts]).encode())
            os._exit(0)
        os.wait()
        return json.loads(os.read(receive, 10_000))

    own = psutil.Process()
    sockets = {
        f"{process.name()}:{entry.laddr.port}": entry.laddr.ip
        for process in [own, *own.children(recursive=True)]
        for entry in process.net_connections(kind="inet") if entry.status == "LISTEN"
    }
    attempts = [
        lambda: os.listdir(session),
        lambda: open(session / "logs" / "raylet.out").read(),
        lambda: socket.socket(socket.AF_UNIX).connect(node.raylet_socket_name),
        lambda: open(Path.home() / ".ray" / "auth_token").read(),
    ]
    stranger = (
        "import sys; from ray._raylet import GcsClient; client = GcsClient(address=sys.argv[1]); "
        "client.internal_kv_get(b'session_name', b'session')"
    )
    arguments = sys.executable, "-c", stranger, node.address
    clients = [
        subprocess.run(arguments, env={"HOME": "/nonexistent"} | token, capture_output=True, text=True).stderr
        for token in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"})
    ]
    print(json.dumps({
        "address": node.address, "sockets": sockets, "clients": clients, "folder": str(session.parent.parent),
        "folder mode": mode(session.parent.parent), "token mode": mode(Path.home() / ".ray" / "auth_token"),
        "nobody": as_nobody(attempts) if os.geteuid() == 0 else None,
        "PYTHONPATH": os.environ.get("PYTHONPATH"),
    }))
"""


@pytest.fixture(scope="module")
def private():
    """What was seen of a private Ray, which has ended since; its HOME is one that others may enter."""
    with tempfile.TemporaryDirectory() as home:
        os.chmod(home, 0o755)
        yield json.loads(run_python(PRIVATE, HOME=home))


def test_a_private_ray_listens_on_loopback_only(private):
    addresses = {name: ipaddress.ip_address(ip) for name, ip in private["sockets"].items()}
    public = {name: ip for name, ip in addresses.items() if not (getattr(ip, "ipv4_mapped", None) or ip).is_loopback}
    assert not public
    assert {name.partition(":")[0] for name in addresses} >= {"gcs_server", "raylet"}


def test_without_the_token_a_private_ray_answers_nobody(private):
    assert len(private["clients"]) == 2
    assert all("AuthenticationError" in client for client in private["clients"])


def test_a_private_rays_files_are_the_users_own(private):
    assert private["folder mode"] == 0o700
    assert private["token mode"] == 0o600


def test_another_user_reaches_neither_files_nor_sockets_nor_token(private):
    if private["nobody"] is None:
        pytest.skip("needs root to become another user")
    assert private["nobody"] == ["PermissionError"] * 4


def test_a_private_ray_leaves_no_folder_behind_and_the_environment_as_it_was(private):
    assert not Path(private["folder"]).exists()
    assert private["PYTHONPATH"] is None


def expected() -> list:
    """A single-core run: with one collector a distributed one has the same bits."""
    agent = td.QLAgent(td.FrozenLakeEnv(), **RUN)
    agent.learn_and_evaluate(progress=False)
    return [agent.q_table.tobytes().hex(), agent.total_rewards, agent.steps]


LEARN = f"""
    import json, threading
    import ray
    import td_helpers as td

    def learn(bits):
        agent = td.DistributedQLAgent(td.FrozenLakeEnv(), cw_num=1, ew_num=1, **{RUN})
        agent.learn_and_evaluate(progress=False)
        bits.append([agent.q_table.tobytes().hex(), agent.total_rewards, agent.steps])

    bits = []
"""


def test_ray_started_by_two_threads_at_once_outlives_both():
    """Ray's processes end with the thread that started them: so that one has to stay."""
    code = """
    threads = [threading.Thread(target=learn, args=(bits,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ray.get(ray.remote(lambda: "alive").remote(), timeout=60) == "alive"
    print(json.dumps(bits))
    """
    assert json.loads(run_python(LEARN + code)) == [expected()] * 2


def test_a_ray_that_the_user_has_started_is_used_as_it_is():
    code = """
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    node = ray.get_runtime_context().get_node_id()
    learn(bits)
    assert ray.get_runtime_context().get_node_id() == node
    print(json.dumps(bits))
    """
    assert json.loads(run_python(LEARN + code)) == [expected()]
