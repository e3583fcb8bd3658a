"""What is known of a study's trials, kept up to date by looking at the new ones."""

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.search.history import History
from nas.search.study import Adopted, adopt, ask, suggest
from search_spaces.cell import CellArch, CellSpace
from search_spaces.space import Option, Space

SPACE: Space[Any] = CellSpace()


STORAGE = InMemoryStorage()


@pytest.fixture
def study() -> Study:
    return optuna.create_study(direction="maximize", storage=STORAGE)


def propose(study: Study, arch: CellArch) -> optuna.Trial:
    trial = ask(study, "w", SPACE.encode(arch), "guide")
    suggest(trial, SPACE)
    return trial


def some_archs(count: int) -> list[CellArch]:
    generator = Random(0)
    return [SPACE.sample(generator) for _ in range(count)]


def test_trials_are_given_once_when_they_have_finished(study: Study) -> None:
    history, (one, other) = History(study, STORAGE, SPACE), some_archs(2)
    first, second = propose(study, one), propose(study, other)
    assert history.update() == []
    assert history.running == {one, other}
    study.tell(second, 0.5)
    assert [trial.number for trial in history.update()] == [1]
    assert history.running == {one}
    study.tell(first, 0.4)
    assert [trial.number for trial in history.update()] == [0]
    assert history.update() == []
    assert history.running == set()
    assert history.numbers == {one: 0, other: 1}
    assert (history.num_trials, history.num_finished) == (2, 2)


def test_what_waits_or_is_sampled_counts_as_running_once_it_is_known_in_full(study: Study) -> None:
    history, (arch,) = History(study, STORAGE, SPACE), some_archs(1)
    study.enqueue_trial(SPACE.encode(arch), user_attrs={"worker": "w"})
    history.update()
    assert (history.running, history.waiting) == ({arch}, {"w"})
    trial = study.ask()
    names = list(SPACE.choices().items())
    for name, options in names[:-1]:
        trial.suggest_categorical(name, options)
    history.update()
    assert history.running == {arch}
    sampled = study.ask()
    for name, options in names[:-1]:
        sampled.suggest_categorical(name, options)
    history.update()
    assert history.running == {arch}
    drawn = suggest(sampled, SPACE)
    history.update()
    assert history.running == {arch, drawn}
    study.tell(sampled, state=TrialState.FAIL)
    assert history.update() == []
    assert history.running == {arch}
    assert (history.num_trials, history.num_finished, history.numbers) == (2, 0, {})


def test_of_a_long_study_only_what_is_new_is_looked_into(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, decoded = History(study, STORAGE, SPACE), list[object]()
    for arch in some_archs(30):
        study.tell(propose(study, arch), 0.5)
    history.update()
    decode = CellSpace.decode
    values_of = [SPACE.encode(arch) for arch in (SPACE.largest(), SPACE.smallest())]

    def counted(space: CellSpace, values: Mapping[str, Option]) -> CellArch:
        decoded.append(values)
        return decode(space, values)

    monkeypatch.setattr(CellSpace, "decode", counted)
    running, finished = (ask(study, "w", values) for values in values_of)
    for name, options in SPACE.choices().items():
        finished.suggest_categorical(name, options)
    study.tell(finished, 0.5)
    decoded.clear()
    assert [trial.number for trial in history.update()] == [31]
    assert decoded == values_of
    assert running.number == 30


def by_definition(trials: list[FrozenTrial]) -> dict[str, Any]:
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    known = [trial for trial in complete if trial.user_attrs["origin"] == "known"]
    within = [t for t in complete if all(x <= 0 for x in t.constraints.values())]
    best = max(within, key=lambda trial: (trial.values[0], -trial.number), default=None)
    since = [t for t in complete if best and t not in known and t.number > best.number]
    answered = any(trial in within for trial in known)
    return {
        "num_finished": len(complete),
        "num_known": len(known),
        "num_counted": len(complete) - (0 if answered else len(known)),
        "num_since_best": len(since),
    }


@pytest.mark.parametrize("known_within", [False, True])
@pytest.mark.parametrize("pause", [1, 3])
def test_counts_are_as_defined_in_whatever_order_trials_finish(
    study: Study, known_within: bool, pause: int, tmp_path: Path
) -> None:
    generator, history, running = Random(1), History(study, STORAGE, SPACE), list[optuna.Trial]()
    for step, arch in enumerate(some_archs(40)):
        if step == 10:
            constraints = {"params": -1.0 if known_within else 1.0}
            records = [Adopted(SPACE.encode(a), [0.6], constraints) for a in some_archs(45)[40:]]
            adopt(study, tmp_path, records, SPACE.choices())
        running.append(propose(study, arch))
        if len(running) > 3:
            trial = running.pop(generator.randrange(len(running)))
            trial.set_constraint("params", generator.choice((-1.0, 1.0)))
            study.tell(trial, generator.randrange(10) / 10)
        if step % pause == 0:
            history.update()
            expected = by_definition(study.get_trials())
            assert {key: getattr(history, key) for key in expected} == expected
    assert history.num_finished > 20
