"""Starting a private Ray that only this user can reach, or joining a cluster; workers find the modules in both."""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import faulthandler
import logging
import os
import random
import secrets
import shutil
import signal
import socket
import stat
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .checks import check_count

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]  # without it there are no locks

FOLDER = Path(__file__).resolve().parent.parent
MODULES = "tabular", "beyond", "td_helpers.py"  # what workers import, in FOLDER
NOT_SENT = ["*.csv", "*.png", "*.md", "*.ipynb"]  # files in MODULES that workers do not need
QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}
SETTINGS_FRAME = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # of HTTP/2, which gRPC speaks
IGNORE_LOST_ERRORS = "RAY_IGNORE_UNHANDLED_ERRORS"
PREFIX = "ray-"  # of the names of private Rays' folders
ALIVE = "alive"  # a file in such a folder, locked while its driver is alive
UNSET = {  # variables that would make a private Ray part of something else
    "RAY_ENABLE_K8S_TOKEN_AUTH",  # Kubernetes would be asked about the token
    "RAY_USE_TLS",  # needs a cluster's certificates
    "RAY_REDIS_ADDRESS",  # the database of a cluster's state
    "RAY_gcs_storage",
    "RAY_JOB_CONFIG_JSON_ENV_VAR",  # set in a job that was submitted to a cluster
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING",
}
KEPT = {IGNORE_LOST_ERRORS, "RAY_AUTH_MODE"}  # variables that Ray needs while it runs

_starting = threading.Lock()
_kept: dict[str, tuple[str | None, str | None]] = {}  # for the running Ray: a variable's (value before, value set)
_is_fork = False  # whether this process was forked from one that ran Ray


def start_ray(num_cpus: int | None = None) -> None:
    """Join the Ray cluster that RAY_ADDRESS names, or else start a private Ray; do nothing if Ray is running.

    A private Ray uses `num_cpus` (None: all), listens only on the loopback interface, requires Ray's token, and keeps
    its files where no other user can read them. Raises TypeError or ValueError for a bad `num_cpus` or RAY_AUTH_TOKEN,
    ImportError if ray is not installed, ConnectionError, with what to do about it, if Ray cannot be joined or started,
    and RuntimeError in a fork of a process that runs Ray.
    """
    if num_cpus is not None:
        check_count("num_cpus", num_cpus)
    check_not_forked()
    with _starting:  # a second thread waits here, then finds Ray running
        if _ray_runs():
            return
        _restore_kept_variables()
        with _global_state_restored():
            _import_ray()
            logging.getLogger("ray").setLevel(logging.ERROR)
            # Runs send lost calls again, but Ray would print the error of each of them.
            os.environ.setdefault(IGNORE_LOST_ERRORS, "1")
            _check_token()
            address = os.environ.get("RAY_ADDRESS", "").strip() or "local"
            if address == "local":
                _call_in_lasting_thread(_start_private_ray, num_cpus)
            else:
                _join_cluster(address)


def _check_token() -> None:
    """Raise ValueError if RAY_AUTH_TOKEN cannot be sent; Ray would end this process without a Python error."""
    token = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    if not (token.isascii() and token.isprintable()):
        raise ValueError("RAY_AUTH_TOKEN must be one line of printable ASCII, since it is sent in a header")


def _ray_runs() -> bool:
    """Whether Ray is running in this process, started or joined."""
    ray: Any = sys.modules.get("ray")
    return hasattr(ray, "is_initialized") and ray.is_initialized()


def _import_ray() -> None:
    """Import ray; on failure raise an ImportError that says what runs without it."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == "ray"
        problem = "is not installed" if is_missing else f"cannot be imported ({error})"
        raise ImportError(
            f"ray {problem}: pip install -r requirements.txt. Without it distributed agents run with "
            "workers=td.InProcess() or td.Threads(), and single-core agents run as usual"
        ) from error


@contextlib.contextmanager
def _global_state_restored() -> Iterator[None]:
    """Restore what importing and starting Ray changes in the user's process."""
    environment, path, state = dict(os.environ), list(sys.path), random.getstate()
    hook, handler, dumps = sys.excepthook, signal.getsignal(signal.SIGTERM), faulthandler.is_enabled()
    try:
        yield
    finally:
        random.setstate(state)
        sys.excepthook = hook
        sys.path[:] = path + [entry for entry in sys.path if entry not in path]  # Ray's entries go last
        changed = _changed_by_ray(environment)
        if _ray_runs():
            _kept.update({name: (changed.pop(name), os.environ.get(name)) for name in KEPT & changed.keys()})
        _set_variables(changed)
        if not dumps:
            faulthandler.disable()
        is_users = callable(handler) or handler == signal.SIG_IGN
        if is_users and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # otherwise Ray's handler stays, which ends Ray


def _restore_kept_variables() -> None:
    """Restore variables that were kept for a Ray that has ended, unless they were changed since."""
    _set_variables({name: before for name, (before, left) in _kept.items() if os.environ.get(name) == left})
    _kept.clear()


def _changed_by_ray(environment: dict[str, str]) -> dict[str, str | None]:
    """Return the variables that differ from `environment` because of Ray, with their values there."""
    names = {name for name in environment.keys() | os.environ.keys() if name.startswith("RAY_")} | {"PYTHONBREAKPOINT"}
    return {name: environment.get(name) for name in names if environment.get(name) != os.environ.get(name)}


def _set_variables(values: dict[str, str | None]) -> None:
    """Set environment variables; None removes one."""
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextlib.contextmanager
def _with_variables(**values: str | None) -> Iterator[None]:
    """Set environment variables within the block."""
    before = {name: os.environ.get(name) for name in values}
    _set_variables(values)
    try:
        yield
    finally:
        _set_variables(before)


# Forks -----------------------------------------------------------------------------------


def check_not_forked() -> None:
    """Raise RuntimeError in a fork of a process that runs Ray: without Ray's threads its calls would wait forever."""
    if _is_fork:
        raise RuntimeError(
            "this process is a fork of one that runs Ray, and cannot reach it: start processes with "
            'multiprocessing.get_context("spawn"), or give the agent workers=td.InProcess()'
        )


def _note_fork() -> None:
    """Reset a fork: it gets a new lock, as a thread of its parent may hold the old one, and does not use Ray."""
    global _starting, _is_fork
    _starting = threading.Lock()
    if _ray_runs():
        _is_fork = True
        # Ray's hooks for the end of a process, and for uncaught errors, would wait for its threads as well.
        worker = sys.modules["ray._private.worker"]
        atexit.unregister(worker.shutdown)
        if sys.excepthook is worker.custom_excepthook:
            sys.excepthook = worker.normal_excepthook


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


# A private Ray -------------------------------------------------------------------------


def _call_in_lasting_thread(function: Callable, *arguments: Any) -> None:
    """Call a function: in the main thread directly, in any other thread through a new one that never ends.

    On Linux the kernel ends Ray's processes as soon as the *thread* that started them ends.
    """
    if threading.current_thread() is threading.main_thread():
        function(*arguments)
        return
    future: concurrent.futures.Future[None] = concurrent.futures.Future()

    def call_and_stay() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)
        else:
            threading.Event().wait()

    threading.Thread(target=call_and_stay, name="keeps Ray", daemon=True).start()
    future.result()


def _start_private_ray(num_cpus: int | None) -> None:
    """Start a Ray that only this user can reach, in up to three tries."""
    import ray

    needs = "it needs a writable HOME and temporary folder, and a machine idle enough to start in 30 s"
    settings = {name for name, value in os.environ.items() if name.startswith("RAY_") and value not in ("", "0")}
    if inherited := sorted(settings - UNSET - KEPT):
        needs += f"; Ray's settings in the environment: {', '.join(inherited)}"
    for tries_left in (2, 1, 0):
        try:
            _remove_leftovers(_base_folder())
            _keep_token_private()
            # Ray gives all users access to its folder, which is therefore inside a private one.
            folder = os.path.join(_own_folder(), "s")
            with _loopback_only(), _private_settings():
                ray.init(
                    address="local", num_cpus=num_cpus, include_dashboard=False,
                    object_store_memory=10**9, _temp_dir=folder, **QUIET,
                )  # fmt: skip
            return
        except Exception as error:  # the next try is faster, since Ray has loaded by now
            ray.shutdown()
            if not tries_left or "timed out" not in str(error):
                raise ConnectionError(f"Ray did not start ({error}); {needs}") from error
            warnings.warn(f"Ray did not start in 30 s, tries left: {tries_left}; {needs}", stacklevel=4)


@contextlib.contextmanager
def _private_settings() -> Iterator[None]:
    """Make a Ray started within the block require its token, whatever the environment says, and find the modules.

    Workers inherit PYTHONPATH, which costs nothing, unlike a runtime_env.
    """
    from ray._raylet import AuthenticationMode, get_authentication_mode

    os.environ["RAY_AUTH_MODE"] = "token"
    unset = dict.fromkeys(UNSET)
    if not os.environ.get("RAY_AUTH_TOKEN", "").strip():  # a blank one would be taken for a token
        unset["RAY_AUTH_TOKEN"] = None
    folders = os.pathsep.join(filter(None, [str(FOLDER), os.environ.get("PYTHONPATH")]))
    with _with_variables(PYTHONPATH=folders, **unset):
        _read_settings_again()
        if get_authentication_mode() != AuthenticationMode.TOKEN:
            raise RuntimeError("it would not require its token")
        yield


def _read_settings_again() -> None:
    """Have Ray read its variables again, since it has kept the values from its import or last start."""
    from ray._raylet import AuthenticationTokenLoader, Config

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _keep_token_private() -> None:
    """Write Ray's token, readable by this user only, before Ray writes one that is readable by others."""
    if os.environ.get("RAY_AUTH_TOKEN", "").strip() or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="ascii") as draft:  # mode 0600
        draft.write(secrets.token_hex(32))
        draft.flush()
        with contextlib.suppress(FileExistsError):
            os.link(draft.name, path)  # whole or not at all, if two processes do this at the same time
    with contextlib.suppress(PermissionError):  # it has another owner, who chose its mode
        path.chmod(0o600)


def _base_folder() -> str:
    """Return where Ray's folders are made: the folder for temporary files, or /tmp if Ray cannot use its path."""
    base = os.path.abspath(tempfile.gettempdir())
    # Ray encodes paths in ASCII. A Unix socket's path has at most 103 bytes, and Ray adds 78.
    return "/tmp" if os.name == "posix" and not (base.isascii() and len(base) <= 25) else base


def _own_folder() -> str:
    """Make a folder that only this user may enter; when Python exits, Ray ends and the folder is removed."""
    folder = tempfile.mkdtemp(prefix=PREFIX, dir=_base_folder())
    if fcntl:
        draft = os.path.join(folder, "draft")
        with contextlib.suppress(OSError):  # then the next start cannot remove the folder
            fcntl.flock(os.open(draft, os.O_CREAT | os.O_RDWR, 0o600), fcntl.LOCK_EX)  # until this process ends
            os.rename(draft, os.path.join(folder, ALIVE))  # so that it is never seen unlocked
    atexit.register(_end_private_ray, folder, os.getpid())
    return folder


def _remove_leftovers(base: str) -> None:
    """Remove the folders that this user's killed drivers left; a driver that is alive holds a lock on its folder.

    Two of Ray's agents may outlive a driver by a minute, and end by themselves. They are not ended here, because their
    command lines do not show which driver they belong to.
    """
    if not fcntl:
        return
    for folder in Path(base).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another kind of file, another owner's, or locked
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != 0o700:
                continue
            if {path.name for path in folder.iterdir()} - {ALIVE, "s"} or (folder / ALIVE).stat().st_size > 0:
                continue  # not one of ours, though its name is similar
            lock = os.open(folder / ALIVE, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _end_private_ray(folder: str, pid: int) -> None:
    """End Ray, which writes to the folder while it runs, and then remove the folder."""
    import ray

    if os.getpid() == pid:  # not in a fork of the process that started it
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """Make a Ray started within the block listen on 127.0.0.1 only.

    Ray does so by itself on macOS and Windows, where it has no clusters. Passing `_node_ip_address="127.0.0.1"` does
    not help, because Ray replaces it with the machine's public address. RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 would, but
    Ray reads it on import, which a notebook may have done before, and it would outlast this Ray.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


# A cluster -----------------------------------------------------------------------------


def _join_cluster(address: str) -> None:
    """Join a cluster, and send it this project's modules."""
    import ray
    from ray._private.authentication import authentication_token_setup as tokens
    from ray._private.services import canonicalize_bootstrap_address

    if "://" in address:
        hint = "run this on a node of the cluster, with RAY_ADDRESS=host:port"
        raise ConnectionError(f"RAY_ADDRESS={address} is for Ray Client, which is not supported: {hint}")
    _read_settings_again()
    tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)  # ray.init does this only for "auto"
    if address == "auto":
        head = _find_cluster()
    else:
        try:
            head = canonicalize_bootstrap_address(address)
        except ValueError as error:
            raise ConnectionError(f"RAY_ADDRESS must be host:port, local or auto, got {address}") from error
        _check_cluster(head, f"RAY_ADDRESS={address}")
    modules = [str(FOLDER / name) for name in MODULES if (FOLDER / name).exists()]
    try:
        ray.init(address=head, runtime_env={"py_modules": modules, "excludes": NOT_SENT}, **QUIET)
    except Exception as error:
        ray.shutdown()
        hint = f"is this machine a node of it (ray start --address={head}), with the same versions of ray and Python?"
        raise ConnectionError(f"the Ray cluster at {head} cannot be joined ({error}); {hint}") from error


def _find_cluster() -> str:
    """Return the address of a cluster on this machine that accepts this user."""
    from ray._private import services

    latest = services.find_bootstrap_address(None)  # written by `ray start`
    for head in dict.fromkeys(filter(None, [latest, *sorted(services.find_gcs_addresses())])):
        with contextlib.suppress(ConnectionError):  # another user's cluster, or a private Ray
            head = services.canonicalize_bootstrap_address(head)
            _check_cluster(head, head)
            return head
    hint = "start one (ray start --head), name the head node's host:port, or unset RAY_ADDRESS"
    raise ConnectionError(f"RAY_ADDRESS=auto, but no Ray cluster on this machine can be joined: {hint}")


def _check_cluster(head: str, name: str) -> None:
    """Raise ConnectionError, within seconds, unless a Ray head that accepts our token answers at `head`, host:port."""
    from ray._raylet import GcsClient
    from ray.exceptions import AuthenticationError, RpcError

    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        _check_listener(head, name)  # Ray itself would try for 40 s, several times
    try:
        GcsClient(address=head)
    except AuthenticationError as error:
        problem = f"the Ray cluster at {name} asks for a token, and ours is missing or wrong"
        hint = "copy the head node's ~/.ray/auth_token to this user's, or set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        raise ConnectionError(f"{problem}: {hint}") from error
    except RpcError as error:
        raise ConnectionError(f"no Ray head node answers at {name} ({error}): is this the right port?") from error


def _check_listener(head: str, name: str) -> None:
    """Raise ConnectionError unless something at `head`, host:port, speaks HTTP/2, as Ray does."""
    hint = "start a cluster there, or unset RAY_ADDRESS to use this machine alone"
    host, _, port = head.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS_FRAME)
            answer = connection.recv(9)
    except (OSError, ValueError) as error:
        raise ConnectionError(f"no Ray cluster answers at {name} ({error}): {hint}") from None
    if answer[3:4] != SETTINGS_FRAME[3:4]:
        raise ConnectionError(f"the server at {name} is not Ray: {hint}")
