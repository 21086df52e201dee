"""A simulated Ray in one process; a seed decides what happens next and what goes wrong.

    with simulated(seed=7, faults={12: "dies in"}) as simulation:
        agent.learn_and_evaluate(progress=False)

Within the block `import ray` finds a stand-in whose processes are threads that run one at a time. Calls take random
times on a virtual clock, so they can end in any order; sleeping and waiting take no real time. The same seed and faults
give the same run, so a failure can be replayed from its seed. Arguments and results are copied by pickle, and arrays
come back read-only, as with Ray. The idea is FoundationDB's: test by simulation, where faults are cheap and repeatable.

The table lists what can happen to a call, what Ray raises then, and whether the real Ray was seen to do so.
tests/test_likeness.py plays each event on both: some on a private Ray, others, among the long tests, with a network cut
or a lost node. Events not seen there are simulated as a precaution. "Unavailable" is ActorUnavailableError, which does
not say whether the call has run; "died" is ActorDiedError. A call that waits for a failed one gets a RayTaskError that
holds the other's error.

| fate         | what happens                                   | Ray raises           | seen        |
| ------------ | ---------------------------------------------- | -------------------- | ----------- |
| does not run | it is lost in transit                          | unavailable          | in a cut    |
| answer lost  | it runs, and its answer is lost                | unavailable          | in a cut    |
| runs late    | it is reported lost, but runs after later ones | unavailable          | no          |
| runs twice   | it runs again later, as if sent twice          | nothing              | no          |
| is swallowed | it is lost in transit, without notice          | nothing, for minutes | once        |
| slow         | it takes up to 400 s                           | nothing until then   | yes         |
| hangs        | it never ends, and its process takes no other  | nothing, ever        | yes         |
| dies before  | its process dies before it                     | died                 | yes         |
| dies in      | its process dies while it runs                 | died                 | yes         |
| dies after   | its process dies once it has answered          | died, of later calls | yes         |
| cut off      | its process cannot be reached for up to 100 s, | unavailable, died,   | in a cut    |
|              | and then comes back, or is declared dead       | or nothing           |             |
| object lost  | it runs, and what it returned is lost later    | ObjectLostError      | with a node |

Starting a process is a call, too: a process, or its replacement, may die at its start, hang, or be out of reach.
Not simulated, and refused with `NotSimulated`: actors that run several calls at once, async methods, Ray's libraries.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from .checks import check_count, check_number
from .simulation import FATES, Call, ObjectRef, Packed, Process, Simulation, Stuck, Watcher, begun, pack, running

__all__ = ["FATES", "NotSimulated", "Stuck", "Watcher", "simulated"]


class NotSimulated(AttributeError, NotImplementedError):
    """Raised for a feature of Ray that is not simulated."""


@contextlib.contextmanager
def simulated(
    seed: int, faults: Mapping[int, str] | float = 0.0, *, most_events: int = 1_000_000
) -> Iterator[Simulation]:
    """Replace `ray` with a simulated Ray, and the clock of `time` with a virtual one, until the block ends.

    `faults` maps the number of a call, counted from 0 in the order of sending, to one of `FATES`, or is the probability
    that a call meets one. The yielded simulation lists those that occurred in its `faults`, so that a run can be
    repeated without some of them. Raises Stuck (a BaseException) if the program would hang with the real Ray: nothing
    more can happen, or more than `most_events` events have happened. Raises TypeError or ValueError for bad arguments,
    and RuntimeError inside another simulation.
    """
    check_count("seed", seed, 0, 2**63 - 1)
    check_count("most_events", most_events)
    _check_faults(faults)
    import ray.cloudpickle
    import ray.exceptions

    vars(_stand_in).update(exceptions=ray.exceptions, cloudpickle=ray.cloudpickle)
    before, sys.modules["ray"] = sys.modules["ray"], _stand_in
    try:
        with begun(Simulation(seed, faults, most_events)) as simulation:
            yield simulation
    finally:
        sys.modules["ray"] = before


def _check_faults(faults: Any) -> None:
    """Raise TypeError or ValueError unless these are call numbers with their fates, or a probability."""
    if not isinstance(faults, Mapping):
        check_number("faults", faults)
        return
    for call, fate in faults.items():
        check_count("a call's number in faults", call, 0)
        if fate not in FATES:
            raise ValueError(f"faults must be among {', '.join(FATES)}; got {fate!r} for call {call}")


# Ray's functions ----------------------------------------------------------------------------------


def remote(*arguments: Any, **options: Any) -> Any:
    """Make a function or class remote, as `ray.remote` does; of the options only num_returns has an effect."""
    if len(arguments) == 1 and not options and callable(arguments[0]):
        return _remote(arguments[0], {})
    if arguments:
        raise TypeError("the @ray.remote decorator must be applied with no arguments, or with keyword arguments")
    return functools.partial(_remote, options=options)


def _remote(target: Any, options: dict) -> RemoteClass | RemoteFunction:
    if options.get("max_concurrency", 1) != 1 or options.get("concurrency_groups"):
        raise NotSimulated("actors that run several calls at once are not simulated")
    return RemoteClass(target) if inspect.isclass(target) else RemoteFunction(target, options.get("num_returns", 1))


class RemoteFunction:
    """A function each of whose calls runs in a new process."""

    def __init__(self, function: Callable, returns: int):
        functools.update_wrapper(self, function)
        self._function, self._returns = function, returns

    @functools.cached_property
    def _packed(self) -> Packed:
        """The pickled function, with its globals as they are at the first call."""
        return pack(self._function)

    def options(self, **options: Any) -> RemoteFunction:
        """Return the function with new options; only num_returns has an effect."""
        return RemoteFunction(self._function, options.get("num_returns", self._returns))

    def remote(self, *arguments: Any, **settings: Any) -> Any:
        """Send a call; return a reference to its result, or a list of them."""
        process = Process(self._function.__name__, self._packed, is_task=True)
        return _send(Call(process, "run", arguments, settings, self._returns))

    def __call__(self, *arguments: Any, **settings: Any) -> NoReturn:
        name = self._function.__name__
        raise TypeError(f"Remote functions cannot be called directly. Instead of {name}(), try {name}.remote().")


class RemoteClass:
    """A class whose instances each live in a process."""

    def __init__(self, kind: type):
        functools.update_wrapper(self, kind, updated=())
        self._kind = kind
        self._methods = {name: getattr(method, "__ray_num_returns__", 1) for name, method in _methods(kind)}

    @functools.cached_property
    def _packed(self) -> Packed:
        """The pickled class."""
        return pack(self._kind)

    def options(self, **options: Any) -> RemoteClass:
        """Return the class itself: no option has an effect."""
        return self

    def remote(self, *arguments: Any, **settings: Any) -> Handle:
        """Start a process that holds an instance; return its handle."""
        running().give_way()
        process = Process(self._kind.__name__, self._packed, is_task=False)
        process.send(Call(process, "__init__", arguments, settings))
        return Handle(process, self._methods)

    def __call__(self, *arguments: Any, **settings: Any) -> NoReturn:
        name = self._kind.__name__
        raise TypeError(f"Actors cannot be instantiated directly. Instead of '{name}()', use '{name}.remote()'.")


def _methods(kind: type) -> list[tuple[str, Callable]]:
    """Return the methods of a class; raise NotSimulated if one is async."""
    methods = inspect.getmembers(kind, callable)
    for name, method in methods:
        if inspect.iscoroutinefunction(method):
            raise NotSimulated(f"{kind.__name__}.{name} is async, which is not simulated")
    return methods


def method(*, num_returns: int = 1, **_: object) -> Callable:
    """Decorate a method with the number of objects that it returns, as `ray.method` does."""

    def decorated(function: Any) -> Any:
        function.__ray_num_returns__ = num_returns
        return function

    return decorated


class Handle:
    """A handle through which callers reach an actor."""

    def __init__(self, process: Process, methods: dict[str, int]):
        self._process, self._methods = process, methods
        self._actor_id = process.number

    def __getattr__(self, name: str) -> Method:
        if name.startswith("__") or name not in self._methods:
            raise AttributeError(f"'{self._process.name}' object has no attribute '{name}'")
        return Method(self._process, name, self._methods[name])

    def __reduce__(self) -> tuple:
        return _handle, (self._process.number, self._methods)

    def __repr__(self) -> str:
        return f"Actor({self._process.name})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and self._process is other._process

    def __hash__(self) -> int:
        return hash(self._process)


def _handle(number: int, methods: dict[str, int]) -> Handle:
    """Return the handle that was pickled inside another object."""
    return Handle(running().processes[number], methods)


class Method:
    """A method of an actor, to be called by `remote`."""

    def __init__(self, process: Process, name: str, returns: int):
        self._process, self._name, self._returns = process, name, returns

    def options(self, **options: Any) -> Method:
        """Return the method with new options; only num_returns has an effect."""
        return Method(self._process, self._name, options.get("num_returns", self._returns))

    def remote(self, *arguments: Any, **settings: Any) -> Any:
        """Send a call; return a reference to its result, or a list of them."""
        return _send(Call(self._process, self._name, arguments, settings, self._returns))

    def __call__(self, *arguments: Any, **settings: Any) -> NoReturn:
        name = self._name
        raise TypeError(
            f"Actor methods cannot be called directly. Instead of running 'object.{name}()', try "
            f"'object.{name}.remote()'."
        )


def _send(call: Call) -> Any:
    """Send a call; return a reference to its result, or a list of them."""
    call.process.send(call)
    running().give_way()
    return call.answers[0] if len(call.answers) == 1 else call.answers


def get(references: Any, *, timeout: float | None = None) -> Any:
    """Wait for calls and return their results; raise a call's error, or GetTimeoutError after `timeout` seconds."""
    several = isinstance(references, list)
    wanted = _checked_references(references if several else [references])
    simulation = running()
    simulation.give_way()
    _watch(wanted)
    # Like Ray, it raises the first error without waiting for the other calls.
    enough = lambda: all(one.done for one in wanted) or any(one.done and one.error for one in wanted)
    if not simulation.wait(enough, timeout):
        raise _stand_in.exceptions.GetTimeoutError("Get timed out: some object(s) not ready.")
    for one in wanted:
        if one.error is not None:
            one.value()
    values = [one.value() for one in wanted]
    value = values if several else values[0]
    simulation.watcher.received(simulation.me(), value)
    return value


def wait(
    references: Any, *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
) -> tuple[list[ObjectRef], list[ObjectRef]]:
    """Wait until `num_returns` references are done, or for `timeout` seconds; return (those done, the others)."""
    if not isinstance(references, list):
        raise TypeError(f"wait() expected a list of ray.ObjectRef, got {type(references)}")
    wanted = _checked_references(references)
    if len(set(wanted)) != len(wanted):
        raise ValueError("Wait requires a list of unique ray_waitables.")
    if not 0 < num_returns <= len(wanted):
        raise ValueError(f"num_returns must be from 1 to the number of references, {len(wanted)}, got {num_returns}")
    simulation = running()
    simulation.give_way()
    _watch(wanted)
    simulation.wait(lambda: sum(one.done for one in wanted) >= num_returns, timeout)
    done = [one for one in wanted if one.done][:num_returns]
    return done, [one for one in wanted if one not in done]


def _checked_references(references: list) -> list[ObjectRef]:
    """Return the references; raise ValueError, as Ray does, if one is something else."""
    for one in references:
        if not isinstance(one, ObjectRef):
            raise ValueError(
                f"Invalid type of object refs, {type(one)}, is given. 'object_refs' must either be an ObjectRef or a "
                "list of ObjectRefs."
            )
    return references


def _watch(references: list[ObjectRef]) -> None:
    """Wake the calling strand whenever one of these is done."""
    simulation = running()
    me = simulation.me()
    for one in references:
        one.when_done(lambda: simulation.wake(me))


def put(value: Any) -> ObjectRef:
    """Store a copy of a value; return a reference to it."""
    if isinstance(value, ObjectRef):
        raise TypeError("Calling 'put' on an ray.ObjectRef is not allowed.")
    running().give_way()
    reference = ObjectRef()
    reference.settle(pack(value))
    return reference


def kill(actor: Handle, *, no_restart: bool = True) -> None:
    """Kill an actor, a millisecond later."""
    if not isinstance(actor, Handle):
        raise ValueError(f"ray.kill() only supported for actors. For tasks, try ray.cancel(). Got: {type(actor)}.")
    running().after(1e-3, actor._process.die)
    running().give_way()


def init(*_: object, **__: object) -> types.SimpleNamespace:
    """Start a session, or join the running one; arguments have no effect."""
    running().initialized = True
    return types.SimpleNamespace(address_info={"node_ip_address": "127.0.0.1"}, dashboard_url="")


def is_initialized() -> bool:
    """Whether a session is running."""
    return running().initialized


def shutdown(*_: object, **__: object) -> None:
    """End the session and all its processes."""
    simulation = running()
    for process in simulation.processes.values():
        process.die()
    simulation.initialized, simulation.job = False, simulation.job + 1
    simulation.give_way()


def get_runtime_context() -> types.SimpleNamespace:
    """Return the context of this process: its job, which each session changes, and its node."""
    job = f"{running().job:08x}"
    return types.SimpleNamespace(get_job_id=lambda: job, get_node_id=lambda: "simulated", gcs_address="simulated")


def nodes() -> list[dict]:
    """Return the only node."""
    return [{"NodeID": "simulated", "Alive": True, "Resources": cluster_resources()}]


def cluster_resources() -> dict[str, float]:
    """Return the resources of the cluster: more processors than any test needs."""
    return {"CPU": 64.0}


class _StandIn(types.ModuleType):
    """The module that `import ray` finds."""

    def __getattr__(self, name: str) -> Any:
        raise NotSimulated(f"ray.{name} is not simulated")

    def __reduce__(self) -> tuple:
        return importlib.import_module, ("ray",)  # pickled by name, as modules are


_stand_in = _StandIn("ray", "A simulated Ray.")
vars(_stand_in).update(
    remote=remote, get=get, wait=wait, put=put, kill=kill, init=init, is_initialized=is_initialized, method=method,
    shutdown=shutdown, get_runtime_context=get_runtime_context, nodes=nodes, cluster_resources=cluster_resources,
    available_resources=cluster_resources, ObjectRef=ObjectRef, __version__="simulated", __path__=[],
)  # fmt: skip
