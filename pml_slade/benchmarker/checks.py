"""Settings of a run, checked before anything is made: powerful-benchmarker ignores what it does not know."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import powerful_benchmarker
import yaml
from torch import nn

from ..exceptions import ConfigError

OWN_KEYS = {
    "teacher": None,
    "initial_experiment": None,
    "pool": None,
    "pool_transforms": None,
    "num_clusters": None,
    "min_cluster_size": 2,
    "crops": None,
}
"""Settings of ours, at the top level of the YAML, and their defaults."""
_OF_THE_RUNNER = {
    "experiment_name",
    "experiment_folder",
    "place_to_save_configs",
    "dict_of_yamls",
    "dataset_root",
    "resume_training",
    "evaluate",
    "evaluate_ensemble",
    "reproduce_results",
    "layers_to_extract",
}
_ONE = {
    "dataset": "dataset",
    "pool": "dataset",
    "split_manager": "split_manager",
    "sampler": "sampler",
    "trainer": "trainer",
    "tester": "tester",
    "aggregator": "aggregator",
    "ensemble": "ensemble",
    "hook_container": "hook_container",
    "api_parser": "api_parser",
}
_NAMED = {"models": "model", "loss_funcs": "loss", "mining_funcs": "miner", "optimizers": "optimizer"}
_WITHIN = {
    "transforms": {"train", "eval"},
    "pool_transforms": {"train", "eval"},
    "crops": {"global", "local", "num_local", "pool_only"},
    "models": {"trunk", "embedder", "classifier", "generator"},
}
"""Keys below a key that holds no class itself."""
_SCHEDULES = ("scheduler_by_iteration", "scheduler_by_epoch", "scheduler_by_plateau")
_NESTED = {
    "accuracy_calculator": "accuracy_calculator",
    "visualizer": "visualizer",
    "distance": "distance",
    "reducer": "reducer",
    "weight_regularizer": "regularizer",
    "embedding_regularizer": "regularizer",
    "weight_init_func": "weight_init_func",
    "loss": "loss",
    "miner": "miner",
    "helper_split_manager": "split_manager",
}
"""Arguments that are classes with arguments of their own, of these kinds."""


def check_settings(args: Any, getter: Any) -> None:
    """Refuse keys and arguments that nothing reads, and classes that do not exist.

    Args:
        args: powerful-benchmarker's namespace, all YAML and the command line merged.
        getter: its PytorchGetter, which knows what is registered.

    Raises:
        ConfigError: names the first such key, and the nearest that exists.
    """
    known = {*_OF_THE_RUNNER, *OWN_KEYS, *args.config_foldernames, *_keys_of_the_benchmarker()}
    for key in vars(args):
        if key not in known:
            raise ConfigError(f"{key}: unknown key{_nearest(key, known)}")
    for key, below in _WITHIN.items():
        for name in getattr(args, key, None) or {}:
            if name not in below and not (key == "transforms" and name.startswith("augmentation")):
                raise ConfigError(f"{key}.{name}: unknown key{_nearest(name, below)}")
    parts = {*(getattr(args, "models", None) or {}), *(getattr(args, "loss_funcs", None) or {})}
    for name in getattr(args, "optimizers", None) or {}:
        if name.removesuffix("_optimizer") not in parts or not name.endswith("_optimizer"):
            optimizers = {f"{part}_optimizer" for part in parts}
            raise ConfigError(f"optimizers.{name}: nothing of that name{_nearest(name, optimizers)}")
    for key, kind, name, arguments in _objects(vars(args)):
        _check(key, kind, name, arguments, getter)


def _check(key: str, kind: str, name: str, arguments: Any, getter: Any) -> None:
    _check_object(key, _find(key, kind, name, getter), arguments)
    for argument, value in arguments.items():
        if argument in _NESTED and isinstance(value, dict) and value:
            inner = f"{key}.{name}.{argument}"
            _check(inner, _NESTED[argument], *_single(inner, value), getter)


def _objects(args: dict[str, Any]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Every class that the settings name: key, kind, name, arguments."""
    for key, kind in _ONE.items():
        if args.get(key):
            yield key, kind, *_single(key, args[key])
    for key, kind in _NAMED.items():
        for name, spec in (args.get(key) or {}).items():
            scheduled = key == "optimizers" and isinstance(spec, dict)
            rest = {k: v for k, v in spec.items() if k not in _SCHEDULES} if scheduled else spec
            yield f"{key}.{name}", kind, *_single(f"{key}.{name}", rest)
            for schedule in _SCHEDULES if scheduled else ():
                if schedule in spec:
                    place = f"{key}.{name}.{schedule}"
                    yield place, "lr_scheduler", *_single(place, spec[schedule])
    for key in ("transforms", "pool_transforms", "crops"):
        for use, steps in (args.get(key) or {}).items():
            for name, arguments in steps.items() if isinstance(steps, dict) else ():
                yield f"{key}.{use}", "transform", name, arguments or {}


def _single(key: str, spec: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(spec, dict) or len(spec) != 1:
        raise ConfigError(f"{key}: give one class with its arguments, {{Name: {{...}}}}; got {spec!r}")
    ((name, arguments),) = spec.items()
    return name, arguments or {}


def _find(key: str, kind: str, name: str, getter: Any) -> Any:
    names: set[str] = set()
    for place in getattr(getter, kind):
        found = getattr(place, name, None) if inspect.ismodule(place) else place
        if found is not None and (inspect.ismodule(place) or place.__name__ == name):
            return found
        names |= {n for n in vars(place) if n[0] != "_"} if inspect.ismodule(place) else {place.__name__}
    raise ConfigError(f"{key}: there is no {kind} {name!r}{_nearest(name, names)}")


def _check_object(key: str, made: Any, arguments: Any) -> None:
    if not isinstance(arguments, dict):
        raise ConfigError(f"{key}.{made.__name__}: arguments must be a mapping, got {arguments!r}")
    accepted = _accepted(made)
    for name in arguments:
        if accepted is not None and name not in accepted:
            raise ConfigError(
                f"{key}.{made.__name__}.{name}: unknown argument{_nearest(name, accepted)}"
                f"; it takes {', '.join(sorted(accepted)) or 'none'}"
            )


def _accepted(made: Any) -> set[str] | None:
    """Names of the arguments that a class or function takes; None if it takes any."""
    chain = inspect.getmro(made) if inspect.isclass(made) else (made,)
    names: set[str] = set()
    for step in chain:
        if step in (object, nn.Module):
            break
        init = vars(step).get("__init__") if inspect.isclass(step) else step
        if init is None:
            continue
        parameters = list(inspect.signature(init).parameters.values())[int(inspect.isclass(step)) :]
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if all(p.kind != p.VAR_KEYWORD for p in parameters):
            return names
    return None  # what is left over is meant to be taken


@lru_cache(maxsize=1)
def _keys_of_the_benchmarker() -> frozenset[str]:
    """Top-level keys of powerful-benchmarker's own YAML."""
    files = (Path(powerful_benchmarker.__path__[0]) / "configs").rglob("*.yaml")
    return frozenset(
        key.split("~")[0] for file in files for key in yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    )


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""
