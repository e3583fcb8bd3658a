"""Which architecture to export: what a search chose, one of its trials, or one from a file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nas.budgets import Budgets
from nas.checks import check
from nas.config.config import Config
from nas.exits import Infeasible
from nas.records import from_json
from nas.results import SearchResult
from nas.search.storage import open_storage
from search_spaces.space import Arch, Space

# What a search and the export of its finding must have in common.
SAME = {
    "step": "of these weights, by step",
    "weights": "of these weights, by fingerprint",
    "digest": "on this target, with the same target.* options, by the digest of its card",
}


@dataclass(frozen=True)
class Pick:
    """An architecture, and the budgets that it is held to."""

    arch: Arch
    budgets: Budgets
    study: str | None  # None if it is from a file


def pick_arch(config: Config, run: Path, here: Mapping[str, object]) -> Pick:
    """What `pick` or `arch` names, or the only subnet of a run that has one alone.

    What a search found holds for the weights and the target that it was made with: `here` has some
    of the fields of `Conditions`. Raises Infeasible where it found nothing.
    """
    only = config.paths(space=config.space).only
    if only is not None:
        check("arch", not config.arch, f"empty: {run} has one subnet alone", config.arch)
        check("pick", config.pick == "best", f"best: {run} has one subnet alone", config.pick)
        return Pick(only, config.budget, None)
    if config.arch:
        return Pick(read_arch(config.space, Path(config.arch)), config.budget, None)
    found = read_search(config.space, run)
    for key, wanted in here.items():
        there, rule = getattr(found.conditions, key), SAME[key]
        if there != wanted:
            raise ValueError(
                f"pick must follow a search {rule} ({wanted}); nas search run={run} makes one, "
                f"got one of {there}"
            )
    if config.pick == "smallest":
        arch = found.smallest.arch
    elif config.pick == "largest":
        arch = found.largest.arch
    elif config.pick != "best":
        arch = trial_arch(config, run, found.study)
    elif found.chosen:
        arch = found.chosen.arch
    else:
        raise Infeasible("the search found no subnet that meets the budgets; see nas search")
    return Pick(arch, found.budgets, found.study)


def read_search(space: Space[Arch], run: Path) -> SearchResult[Arch]:
    """What a search wrote; raises ValueError that names the file if it is not that."""
    path = run / "search.json"
    if not path.exists():
        raise ValueError(f"pick must follow a search; nas search run={run} makes one, got none")
    where = f"{path}, which nas search writes anew"
    try:
        record = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}, must be JSON, got: {error}") from error
    return from_json(SearchResult, record, space, where)


def read_arch(space: Space[Arch], path: Path) -> Arch:
    """An architecture from a JSON file, such as an exported arch.json."""
    try:
        record = json.loads(path.read_text())
        if not isinstance(record, dict):
            raise ValueError(f"an architecture is a JSON object, got {record!r}")
        return space.from_record(record)
    except OSError as error:
        raise ValueError(f"arch must be a readable file, got {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(
            f"arch must be an architecture of the space, got {path}: {error}"
        ) from error


def trial_arch(config: Config, run: Path, study: str) -> Arch:
    storage = open_storage(config, run)
    try:
        trials = storage.get_all_trials(storage.get_study_id_from_name(study))
    except KeyError as error:
        raise ValueError(
            f"search.storage must be that of the search, which holds the study {study}, got "
            f"{config.search.storage or 'the journal of the run'!r}"
        ) from error
    params = {trial.number: trial.params for trial in trials if trial.state.is_finished()}
    # A trial whose process was killed may lack some choices.
    if config.space.choices().keys() != params.get(int(config.pick), {}).keys():
        raise ValueError(
            f"pick must be best or a finished trial of the last search, which has "
            f"{len(params)}, got {config.pick}"
        )
    return config.space.decode(params[int(config.pick)])
