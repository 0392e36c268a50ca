"""A pretend Ray in this process: objects cross its border by pickle, workers answer in any order, and may die."""

import pickle
import random
from types import SimpleNamespace


class RayActorError(Exception):
    """What Ray raises for results of a worker that has died."""


class PretendRay:
    """The part of Ray that shards use. ``deaths`` numbers the evaluations, from 1, that kill their worker."""

    exceptions = SimpleNamespace(RayActorError=RayActorError)

    def __init__(self, *, deaths=(), cores=3, seed=0):
        self.deaths, self.cores = frozenset(deaths), cores
        self.evaluations, self.hired, self.dismissed = 0, 0, 0
        self.connected = False
        self.results = {}
        self._random = random.Random(seed)

    def is_initialized(self):
        return self.connected

    def init(self, **_):
        self.connected = True

    def cluster_resources(self):
        return {"CPU": float(self.cores)} if self.cores else {}

    def put(self, value):
        return pickle.dumps(value)

    def remote(self, kind):
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda stored: Handle(self, kind, stored)))

    def wait(self, futures, *, num_returns, timeout):
        assert (num_returns, timeout > 0) == (1, True)
        chosen = self._random.sample(futures, min(1, len(futures)))
        return chosen, [future for future in futures if future not in chosen]

    def get(self, futures):
        if isinstance(futures, list):
            return [self.get(future) for future in futures]
        found = self.results.pop(futures)
        if isinstance(found, Exception):
            raise found
        return pickle.loads(found)

    def kill(self, _):
        self.dismissed += 1


class Handle:
    """A worker as its owner sees it: calls are answered at once, and once it is dead by an error."""

    def __init__(self, ray, kind, stored):
        ray.hired += 1
        self.ray, self.alive = ray, True
        self.actor = kind(pickle.loads(stored))
        self.introduce = SimpleNamespace(remote=lambda *given: self._call("introduce", given))
        self.evaluate = SimpleNamespace(remote=lambda *given: self._call("evaluate", given))

    def _call(self, name, given):
        future = object()
        if name == "evaluate":
            self.ray.evaluations += 1
            self.alive = self.alive and self.ray.evaluations not in self.ray.deaths
        if not self.alive:
            self.ray.results[future] = RayActorError("the worker died")
            return future
        try:
            found = getattr(self.actor, name)(*pickle.loads(pickle.dumps(given)))
            self.ray.results[future] = pickle.dumps(found)
        except RuntimeError as error:
            self.ray.results[future] = error
        return future
