import json
from pathlib import Path

import pytest

from nas.__main__ import main
from nas.budgets import Budgets
from nas.export.pick import SAME, pick_arch
from nas.files import write_atomic
from tests.helpers.runs import config_of, result_of, search_of, use_paper_device

ARCH = {
    "embed_dim": 32,
    "num_heads": [2, 3],
    "mlp_ratio": [2, 4],
    "rank": [4, 0],
    "num_atoms": 1,
}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**ARCH, "embed_dim": 24}, "embed_dim must be one of [16, 32], got 24"),
        ({**ARCH, "rank": [4, 3]}, "blocks.1.rank must be one of [0, 4, 8], got 3"),
        ({"embed_dim": 16}, "an architecture has the fields"),
        ([1, 2], "an architecture is a JSON object"),
        (b"\xff\x00 no text", "can't decode"),
        (b'{"embed_dim": 1', "Expecting"),
        (None, "No such file"),
    ],
)
def test_a_bad_architecture_file_is_bad_input(
    run: Path, content: object, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "bad.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(json.dumps(content))
    assert main(["export", f"run={run}", f"arch={path}"]) == 2
    complaint = capsys.readouterr().err
    assert "arch must be" in complaint
    assert str(path) in complaint
    assert message in complaint
    assert not (run / "subnet").exists()


def test_a_pick_needs_a_search(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", f"run={run}"]) == 2
    assert "pick must follow a search" in capsys.readouterr().err
    write_atomic(run / "search.json", json.dumps({"study": "x"}))
    assert main(["export", f"run={run}"]) == 2
    assert "search.json, which nas search writes anew: objective: Field" in capsys.readouterr().err
    write_atomic(run / "search.json", "{")
    assert main(["export", f"run={run}"]) == 2
    assert "search.json, which nas search writes anew, must be JSON" in capsys.readouterr().err


def test_a_pick_needs_a_search_of_the_same_weights_on_the_same_target(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_paper_device(monkeypatch)
    assert main(["search", f"run={run}", "search.trials=1"]) == 0
    found = search_of(run)
    for key, value in (("step", 3), ("weights", "another"), ("digest", "another")):
        conditions = {**found["conditions"], key: value}
        write_atomic(run / "search.json", json.dumps({**found, "conditions": conditions}))
        assert main(["export", f"run={run}"]) == 2
        assert f"pick must follow a search {SAME[key]}" in capsys.readouterr().err
    assert SAME.keys() == found["conditions"].keys()


def test_a_search_on_another_target_is_not_judged_on_this_one(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_paper_device(monkeypatch)
    assert main(["search", f"run={run}", "search.trials=1", "target.batch_size=3"]) == 0
    assert main(["export", f"run={run}"]) == 2
    assert "on this target" in capsys.readouterr().err


def test_best_of_an_infeasible_search_ends_as_the_search_did(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_paper_device(monkeypatch)
    assert main(["search", f"run={run}", "search.trials=1", "budget.params=10"]) == 3
    assert main(["export", f"run={run}"]) == 3


def test_a_pick_is_the_best_or_a_finished_trial_of_the_last_search(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_paper_device(monkeypatch)
    for options in (["search.trials=2"], ["search.trials=4", "budget.params=20000"]):
        assert main(["search", f"run={run}", *options]) == 0
    found, config = result_of(run), config_of(run)
    assert found.chosen is not None
    best, here = found.chosen.arch, found.conditions
    budgets = Budgets.of({"params": 20_000})

    def picked(name: str) -> object:
        config.pick = name
        pick = pick_arch(config, run, vars(here))
        assert (pick.budgets, pick.study) == (budgets, found.study)
        return pick.arch

    assert picked("best") == best
    assert picked("smallest") == config.space.smallest()
    assert picked("largest") == config.space.largest()
    archs = [picked(str(number)) for number in range(4)]
    for candidate in found.candidates:
        if candidate.asked_by.trial is not None:
            assert archs[candidate.asked_by.trial] == candidate.arch
    assert len(set(archs)) > 1
    with pytest.raises(ValueError, match=r"pick must be best or a finished trial .* got 4"):
        picked("4")
