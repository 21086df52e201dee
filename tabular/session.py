"""Ray's session: a private one that only this user can reach, or a cluster's; either way workers find the modules."""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import logging
import os
import secrets
import shutil
import socket
import tempfile
import threading
import warnings
from pathlib import Path

from .checks import check_count

FOLDER = Path(__file__).resolve().parent.parent
MODULES = "tabular", "beyond", "td_helpers.py"  # what workers import, in that folder
QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}
SETTINGS_FRAME = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # of HTTP/2, which gRPC speaks

_starting = threading.Lock()


def start_ray(num_cpus: int | None = None) -> None:
    """Join the Ray cluster that RAY_ADDRESS names, else start a private one; does nothing where Ray runs already.

    A private Ray takes `num_cpus` (None: all), listens on the loopback interface only, asks for Ray's token, and keeps
    its files where no other user can read them. Raises ImportError if ray is not installed, and ConnectionError with
    what to do about it if Ray cannot be joined or started.
    """
    if num_cpus is not None:
        check_count("num_cpus", num_cpus)
    try:
        import ray
    except ImportError as error:
        raise ImportError("ray is not installed: pip install -r requirements.txt") from error
    with _starting:  # a second thread waits here, then finds Ray running
        if ray.is_initialized():
            return
        logging.getLogger("ray").setLevel(logging.ERROR)
        # A run sends again what it loses; Ray would print the error of every call that was given up.
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
        address = os.environ.get("RAY_ADDRESS") or "local"
        if address == "local":
            _call_in_lasting_thread(_start_private_ray, num_cpus)
        else:
            _join_cluster(address)


# A private Ray -------------------------------------------------------------------------


def _call_in_lasting_thread(function, *arguments) -> None:
    """Call it in the main thread if this is that, else in a thread that stays.

    On Linux Ray's processes are ended by the kernel as soon as the *thread* that started them ends.
    """
    if threading.current_thread() is threading.main_thread():
        function(*arguments)
        return
    future = concurrent.futures.Future()

    def call_and_stay():
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
    for tries_left in (2, 1, 0):
        try:
            _keep_token_private()
            # Ray opens the folder it is given to everybody, so that is one inside a folder of this user's own.
            folder = os.path.join(_own_folder(), "s")
            with _loopback_only(), _workers_find_modules():
                ray.init(
                    address="local", num_cpus=num_cpus, include_dashboard=False,
                    object_store_memory=10**9, _temp_dir=folder, **QUIET,
                )  # fmt: skip
            return
        except Exception as error:  # what Ray has loaded by now speeds up the next try
            ray.shutdown()
            if not tries_left or "timed out" not in str(error):
                raise ConnectionError(f"Ray did not start ({error}); {needs}") from error
            warnings.warn(f"Ray did not start in 30 s, trying {tries_left} times more; {needs}", stacklevel=4)


def _keep_token_private() -> None:
    """Write Ray's token before Ray does, which would let all who can enter HOME read it."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="ascii") as draft:  # mode 0600
        draft.write(secrets.token_hex(32))
        draft.flush()
        with contextlib.suppress(FileExistsError):
            os.link(draft.name, path)  # whole or not at all, if two processes come here at once
    with contextlib.suppress(PermissionError):  # of another owner, who knows why
        path.chmod(0o600)


def _own_folder() -> str:
    """A new folder that only this user may enter; it goes when Python exits, and Ray with it."""
    base = tempfile.gettempdir()
    if os.name == "posix" and len(os.fsencode(base)) > 25:  # a Unix socket's path may have 103 bytes, Ray adds 78
        base = "/tmp"
    folder = tempfile.mkdtemp(prefix="ray-", dir=base)
    atexit.register(_end_private_ray, folder, os.getpid())
    return folder


def _end_private_ray(folder: str, pid: int) -> None:
    """End Ray, which writes to the folder as long as it runs, and remove the folder."""
    import ray

    if os.getpid() == pid:  # not in a fork of the process that started it
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _loopback_only():
    """Have a Ray that is started meanwhile listen on 127.0.0.1 and nowhere else.

    Ray itself does so on macOS and Windows, where it offers no clusters; it replaces `_node_ip_address="127.0.0.1"` by
    the machine's public address. The same can be had from RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, but that is read when
    ray is imported, which a notebook may have done long ago, and would outlast this Ray.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _workers_find_modules():
    """Put this folder on PYTHONPATH meanwhile: workers inherit it, which costs nothing, unlike a runtime_env."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(FOLDER), before]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


# A cluster -----------------------------------------------------------------------------


def _join_cluster(address: str) -> None:
    """Join a cluster, and send this project's modules along."""
    import ray
    from ray._private.authentication import authentication_token_setup as tokens
    from ray._private.services import canonicalize_bootstrap_address

    if "://" in address:
        hint = "run this on a node of the cluster, with RAY_ADDRESS=host:port"
        raise ConnectionError(f"RAY_ADDRESS={address} is one for Ray Client, which is not supported: {hint}")
    tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)  # ray.init does so for "auto" alone
    if address == "auto":
        place = _find_cluster()
    else:
        try:
            place = canonicalize_bootstrap_address(address)
        except ValueError as error:
            raise ConnectionError(f"RAY_ADDRESS={address} is not of the form host:port") from error
        _check_cluster(place, f"RAY_ADDRESS={address}")
    modules = [str(FOLDER / name) for name in MODULES if (FOLDER / name).exists()]
    try:
        ray.init(address=place, runtime_env={"py_modules": modules}, **QUIET)
    except Exception as error:
        ray.shutdown()
        hint = f"is this machine a node of it (ray start --address={place}), with the same versions of ray and Python?"
        raise ConnectionError(f"the Ray cluster at {place} cannot be joined ({error}); {hint}") from error


def _find_cluster() -> str:
    """The address of a cluster that runs on this machine, and lets this user in."""
    from ray._private import services

    latest = services.find_bootstrap_address(None)  # as `ray start` has left it
    for place in dict.fromkeys(filter(None, [latest, *sorted(services.find_gcs_addresses())])):
        with contextlib.suppress(ConnectionError):  # that of another user, or a private one
            place = services.canonicalize_bootstrap_address(place)
            _check_cluster(place, place)
            return place
    hint = "start one (ray start --head), name the head node's host:port, or unset RAY_ADDRESS"
    raise ConnectionError(f"RAY_ADDRESS=auto, but no Ray cluster on this machine can be joined: {hint}")


def _check_cluster(place: str, name: str) -> None:
    """ConnectionError, within seconds, unless a Ray head that accepts our token answers at host:port."""
    from ray._raylet import GcsClient
    from ray.exceptions import AuthenticationError, RpcError

    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        _check_listener(place, name)  # Ray itself would try for 40 s, several times over
    try:
        GcsClient(address=place)
    except AuthenticationError as error:
        problem = f"the Ray cluster at {name} asks for a token, and ours is missing or wrong"
        hint = "copy the head node's ~/.ray/auth_token to this user's, or set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        raise ConnectionError(f"{problem}: {hint}") from error
    except RpcError as error:
        raise ConnectionError(f"no Ray head node answers at {name} ({error}): is it another port of Ray's?") from error


def _check_listener(place: str, name: str) -> None:
    """ConnectionError unless something at host:port speaks HTTP/2, as Ray does."""
    hint = "start a cluster there, or unset RAY_ADDRESS to use this machine alone"
    host, _, port = place.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS_FRAME)
            answer = connection.recv(9)
    except (OSError, ValueError) as error:
        raise ConnectionError(f"no Ray cluster answers at {name} ({error}): {hint}") from None
    if answer[3:4] != SETTINGS_FRAME[3:4]:
        raise ConnectionError(f"what listens at {name} is not Ray: {hint}")
