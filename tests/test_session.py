"""A private Ray starts quickly, is closed to others, and can start from threads; a user's own Ray is kept."""

import contextlib
import ipaddress
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

import td_helpers as td
from tabular import session

pytest.importorskip("psutil")  # a dependency of ipykernel
ROOT = Path(__file__).resolve().parent.parent
RUN = {"learning_episodes": 600, "test_interval": 200, "trials": 3}


def run_python(code: str, timeout: float = 120, **environment) -> str:
    """Run code from another folder, where only the driver can import the module; return what it prints."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + textwrap.dedent(code)
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" and not key.startswith("RAY_")}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd="/", env=kept | environment, capture_output=True, text=True, timeout=timeout
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


def test_importing_ray_compiles_no_grammar():
    """From 4.25 on, jsonschema, which ray imports, loads a URI grammar: 1.15 s in each process of a run."""
    code = "import json, ray; print(json.dumps([name for name in ('rfc3987_syntax', 'lark') if name in sys.modules]))"
    assert json.loads(run_python(code)) == []


HOSTILE = {  # inherited variables, each of which would open a private Ray or keep it from starting
    "RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN": " ", "RAY_ENABLE_K8S_TOKEN_AUTH": "true", "RAY_USE_TLS": "1",
    "RAY_REDIS_ADDRESS": "127.0.0.1:1", "RAY_gcs_storage": "redis", "RAY_OVERRIDE_NODE_ID_FOR_TESTING": "abc",
    "RAY_JOB_CONFIG_JSON_ENV_VAR": '{"runtime_env": {"working_dir": "/nonexistent"}}',
}  # fmt: skip

# Check that a token is required, with none and with a wrong one.
STRANGERS = """
    import subprocess
    import ray

    def strangers():
        stranger = (
            "import sys; from ray._raylet import GcsClient; client = GcsClient(address=sys.argv[1]); "
            "client.internal_kv_get(b'session_name', b'session')"
        )
        arguments = sys.executable, "-c", stranger, ray._private.worker._global_node.address
        return [
            subprocess.run(arguments, env={"HOME": "/nonexistent"} | token, capture_output=True, text=True).stderr
            for token in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"})
        ]
"""

PRIVATE = """
    import faulthandler, json, os, random, signal, socket, stat, threading
    from pathlib import Path

    os.mkdir(Path.home() / "tä")
    os.chdir(Path.home() / "tä")  # TMPDIR is this folder
    import td_helpers as td

    def process_state():
        return {
            "environment": dict(os.environ), "path": list(sys.path), "random": hash(random.getstate()),
            "handlers": [repr(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)],
            "hooks": [repr(hook) for hook in (sys.excepthook, sys.breakpointhook, sys.unraisablehook)],
            "faulthandler": faulthandler.is_enabled(), "folder": os.getcwd(),
        }

    signal.signal(signal.SIGTERM, lambda *_: None)
    before = process_state()
    td.start_ray()
    after = process_state()
    workers = td.Workers(2, 1).start()
"""

PRIVATE += STRANGERS + """
    import psutil
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

    def fork(work):
        # return the exit code and stderr of a fork
        receive, send = os.pipe()
        pid = os.fork()
        if not pid:
            os.dup2(send, 2)
            work()
            os._exit(0)
        os.close(send)
        with open(receive, errors="replace") as file:
            said = file.read()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said[-1000:]

    def learn(workers):
        agent = td.DistributedQLAgent(
            td.FrozenLakeEnv(), learning_episodes=100, do_test=False, cw_num=2, workers=workers
        )
        agent.learn(100)

    busy, ended, in_process = threading.Event(), threading.Event(), td.InProcess()

    def hold_locks():
        with workers._turn(), in_process._turn():
            busy.set()
            ended.wait()

    threading.Thread(target=hold_locks).start()
    busy.wait()
    forks = {name: fork(lambda: learn(lent)) for name, lent in {"Ray": workers, "in process": in_process}.items()}
    ended.set()
    learn(workers)

    print(json.dumps({
        "address": node.address, "sockets": sockets, "clients": strangers(), "folder": str(session.parent.parent),
        "folder mode": mode(session.parent.parent), "token mode": mode(Path.home() / ".ray" / "auth_token"),
        "nobody": as_nobody(attempts) if os.geteuid() == 0 else None,
        "before": before, "after": after, "forks": forks,
    }))
"""


@pytest.fixture(scope="module")
def leftover():
    """The leftover folder of a killed driver."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    (folder / "alive").touch()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def private(leftover):
    """Observations of a private Ray, which has ended since, in a HOME that others may enter."""
    with tempfile.TemporaryDirectory() as home:
        os.chmod(home, 0o755)
        yield json.loads(run_python(PRIVATE, HOME=home, TMPDIR=".", **HOSTILE))


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


def test_a_private_ray_leaves_no_folder_behind(private):
    assert not Path(private["folder"]).exists()


def test_starting_ray_leaves_the_environment_as_it_was_but_for_what_ray_needs_as_long_as_it_runs(private):
    before, after = private["before"]["environment"], private["after"]["environment"]
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed == {"RAY_AUTH_MODE", "RAY_IGNORE_UNHANDLED_ERRORS"}
    assert HOSTILE.items() <= before.items() and "PYTHONBREAKPOINT" not in after


def test_starting_ray_lets_modules_be_found_as_before(private):
    before, after = private["before"]["path"], private["after"]["path"]
    assert after[: len(before)] == before and all("ray" in Path(entry).parts for entry in after[len(before) :])


@pytest.mark.parametrize("name", ["random", "handlers", "hooks", "faulthandler", "folder"])
def test_starting_ray_leaves_the_rest_of_the_process_as_it_was(private, name):
    """This includes the user's own handler of SIGTERM."""
    assert private["before"][name] == private["after"][name]


def test_a_fork_of_a_driver_says_that_it_cannot_reach_ray(private):
    """Another thread holds the pool's lock, which in the fork is never released."""
    code, said = private["forks"]["Ray"]
    assert code != 0 and "RuntimeError: this process is a fork of one that runs Ray" in said
    assert 'get_context("spawn")' in said and "td.InProcess()" in said


def test_a_fork_of_a_driver_learns_without_ray(private):
    assert private["forks"]["in process"] == [0, ""]


def test_where_the_user_has_no_handler_of_sigterm_rays_stays_which_ends_ray(workers):
    assert callable(signal.getsignal(signal.SIGTERM))


@pytest.mark.parametrize("found, becomes", [("token", "disabled"), ("k8s", "k8s"), (None, None)], ids=str)
def test_what_a_ray_that_has_ended_has_left_is_put_back_unless_the_user_has_changed_it(monkeypatch, found, becomes):
    monkeypatch.setattr(session, "_kept", {"RAY_AUTH_MODE": ("disabled", "token")})
    monkeypatch.setenv("RAY_AUTH_MODE", found) if found else monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    session._restore_kept_variables()
    assert os.environ.get("RAY_AUTH_MODE") == becomes and not session._kept


# The session's folder ---------------------------------------------------------------------


def test_the_next_start_removes_the_folder_of_a_driver_that_was_killed(private, leftover):
    assert not leftover.exists()


@pytest.fixture
def base():
    """A folder for temporary files, with a short path."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as name:
        yield Path(name)


@contextlib.contextmanager
def driver(base):
    """A process that holds a folder for a private Ray: (process, folder)."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tabular import session; print(session._own_folder())"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code + "; input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(base)}, encoding="utf-8",
    )  # fmt: skip
    try:
        yield process, Path(process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate()


def test_only_folders_of_drivers_that_were_killed_are_removed(base):
    kept = base / "kept"
    kept.mkdir()
    (kept / "alive").touch()
    (base / "ray-link").symlink_to(kept)
    (base / "ray-file").touch()
    (base / "ray-other").mkdir()
    with driver(base) as (_, living):
        with driver(base) as (killed, dead):
            assert living.parent == dead.parent == base
            (dead / "s").mkdir()
            (dead / "s" / "log").touch()
            killed.kill()
            killed.wait()
            session._remove_leftovers(base)
        assert {path.name for path in base.iterdir()} == {"kept", "ray-link", "ray-file", "ray-other", living.name}
        assert (living / "alive").exists() and (kept / "alive").exists()
        session._remove_leftovers(base)
        assert living.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to make another's folder")
def test_the_folders_of_other_users_are_left_alone(base):
    folder = base / "ray-others"
    folder.mkdir()
    (folder / "alive").touch()
    os.chown(folder, 65534, 65534)
    session._remove_leftovers(base)
    assert (folder / "alive").exists()


FOLDERS = {"/tmp": "/tmp", "/var/tä": "/tmp", ".": None, "/tmp/" + "x" * 30: "/tmp", "/var/tmp": "/var/tmp"}


@pytest.mark.skipif(os.name != "posix", reason="sockets have no paths")
@pytest.mark.parametrize("given, taken", FOLDERS.items())
def test_rays_folder_has_a_short_absolute_path_in_ascii(monkeypatch, given, taken):
    monkeypatch.setattr(tempfile, "tempdir", given)
    monkeypatch.chdir("/var/tmp")
    assert session._base_folder() == (taken or "/var/tmp")


# Runs -------------------------------------------------------------------------------------


def expected() -> list:
    """Return the result of a single-core run; a distributed one with one collector has the same bits."""
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


def test_ray_started_by_two_threads_at_once_outlives_both_and_asks_for_its_token():
    """Ray's processes end with the thread that started them, so it must stay alive. Here ray was imported before."""
    code = """
    threads = [threading.Thread(target=learn, args=(bits,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ray.get(ray.remote(lambda: "alive").remote(), timeout=60) == "alive"
    print(json.dumps([bits, strangers()]))
    """
    bits, clients = json.loads(run_python(LEARN + STRANGERS + code, RAY_AUTH_MODE="disabled"))
    assert bits == [expected()] * 2
    assert len(clients) == 2 and all("AuthenticationError" in client for client in clients)


def test_a_ray_that_the_user_has_started_is_used_as_it_is():
    code = """
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    node = ray.get_runtime_context().get_node_id()
    learn(bits)
    assert ray.get_runtime_context().get_node_id() == node
    print(json.dumps(bits))
    """
    assert json.loads(run_python(LEARN + code)) == [expected()]


@pytest.mark.parametrize("make", [
    lambda folder: (folder / "alive").write_text("well", encoding="utf-8"),
    lambda folder: (folder / "data.csv").touch(),
    lambda folder: folder.chmod(0o755),
], ids=["its file has content", "it has other files", "others may enter it"])  # fmt: skip
def test_a_folder_that_only_looks_like_ours_is_left_alone(base, make):
    folder = base / "ray-thesis"
    folder.mkdir(mode=0o700)
    (folder / "alive").touch()
    make(folder)
    session._remove_leftovers(base)
    assert (folder / "alive").exists()


@pytest.mark.parametrize("token", ["two\nlines", "süß", "a\x7f"])
def test_a_token_that_no_header_can_hold_is_refused_before_ray_starts(monkeypatch, token):
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    with pytest.raises(ValueError, match="RAY_AUTH_TOKEN must be one line of printable ASCII"):
        session._check_token()
