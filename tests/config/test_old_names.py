"""Run folders that earlier versions made: old_run is one, as commit 0c69823 wrote it."""

import shutil
from pathlib import Path
from random import Random

import pytest
from omegaconf import OmegaConf

from nas.config.config import Config
from nas.config.instantiate import build, build_space, find_class
from nas.config.old_names import CLASSES, renewed_overrides, renewed_settings
from nas.config.run_folder import MEMORY, SETTINGS, load_mapping, open_run, read_settings
from search_spaces.vit import ViTSpace
from supernet.families.cell import CellSupernet
from supernet.families.vit import ViTSupernet

OLD_RUN = Path(__file__).parent / "old_run"
CELLS = """\
space:
  _target_: search_spaces.cell.CellSpace
  operations: [none, skip_connect]
  channels: 16
  num_cells: 5
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(OLD_RUN, "made")
    Path("made/metrics.jsonl").touch()
    return Path("made")


def go_on(*overrides: str) -> Config:
    return open_run(["run=made", *overrides], create=True)[0]


def rewrite(run: Path, replace: dict[str, str], add: list[str]) -> None:
    """Makes the folder one of other options."""
    text = (run / SETTINGS).read_text()
    for before, after in replace.items():
        assert before in text
        text = text.replace(before, after)
    (run / SETTINGS).write_text(text)
    memory = load_mapping(run / MEMORY)
    OmegaConf.save({**memory, "overrides": memory["overrides"] + add}, run / MEMORY)


def test_training_goes_on_with_the_same_options_and_writes_nothing(run: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    config = go_on()
    assert config.supernet is ViTSupernet
    assert isinstance(config.space, ViTSpace)
    assert (config.space.depth, config.space.patch_size) == ((1, 2), 2)
    assert (config.task.num_outputs, config.task.label_smoothing) == (10, 0.1)
    assert (config.train.epochs, config.target.passes, config.search.start) == (2, 6, 3)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_another_option_is_refused_under_its_name_of_now(run: Path) -> None:
    with pytest.raises(ValueError, match=r"task\.label_smoothing: 0\.1 there, 0\.2 now"):
        go_on("task.label_smoothing=0.2")
    with pytest.raises(ValueError, match=r"space\.patch_size: 2 there, 4 now"):
        go_on("space.patch_size=4")


def test_moved_keys_keep_what_was_given(run: Path) -> None:
    rewrite(
        run,
        {"patch_size: 2": "patch_size: 4", "label_smoothing: 0.1": "label_smoothing: 0.0"},
        ["data.patch_size=4", "train.label_smoothing=0", "target.img_size=8", "rank.score=top1"],
    )
    config = go_on()
    assert isinstance(config.space, ViTSpace)
    assert (config.space.patch_size, config.task.label_smoothing) == (4, 0)
    assert config.rank.score == "metric"


@pytest.mark.parametrize("module", ["supernet", "supernet.sampling"])
def test_a_run_with_paths_that_were_deleted_is_refused(run: Path, module: str) -> None:
    name = f"{module}.candidate_paths.CandidatePaths"
    rewrite(run, {"supernet.sampling.SandwichPaths": name}, ["paths=candidates"])
    for read in (go_on, lambda: read_settings(run)):
        with pytest.raises(ValueError, match=rf"^paths must be .* deleted, got '{name}'$"):
            read()
    (run / "metrics.jsonl").unlink()  # not bound to its settings, but to its options
    with pytest.raises(ValueError, match=r"^paths must be one of emphasis, .*, got 'candidates'$"):
        go_on()


def test_patches_keep_the_size_that_came_with_the_data(run: Path) -> None:
    """Those of cifar10 had 4 pixels, whatever the space."""
    rewrite(run, {"patch_size: 2": "patch_size: 4"}, [])
    config = go_on()
    assert isinstance(config.space, ViTSpace)
    assert config.space.patch_size == 4


def test_a_space_of_the_users_own_gets_the_family_that_it_did_not_name(run: Path) -> None:
    Path("own/space").mkdir(parents=True)
    text = (run / SETTINGS).read_text()
    space = text[text.index("space:\n") + 7 : text.index("source:\n")]
    Path("own/space/mine.yaml").write_text(space.replace("\n  ", "\n").removeprefix("  "))
    memory = load_mapping(run / MEMORY)
    overrides = [option for option in memory["overrides"] if not option.startswith("space")]
    OmegaConf.save({"conf": "own", "overrides": [*overrides, "space=mine"]}, run / MEMORY)
    assert go_on().supernet is ViTSupernet


def test_settings_are_read_with_the_names_of_now(run: Path) -> None:
    settings = read_settings(run)
    space, supernet = build_space(settings["space"])
    assert (space.num_archs(), supernet) == (go_on().space.num_archs(), ViTSupernet)
    assert build(settings["task"], "task") == go_on().task
    assert "img_size" not in settings["target"]


def test_cells_have_no_patches() -> None:
    settings = OmegaConf.to_container(OmegaConf.load(OLD_RUN / SETTINGS))
    assert isinstance(settings, dict)
    cells = OmegaConf.to_container(OmegaConf.create(CELLS))
    renewed = renewed_settings({**settings, **cells})  # type: ignore[dict-item]
    space, supernet = build_space(renewed["space"])
    assert (supernet, space.num_archs()) == (CellSupernet, 2**6)
    assert renewed_overrides(["data.patch_size=3"], settings, renewed) == [  # type: ignore[arg-type]
        "++train.init=",
        "++train.update=step",
        "++train.batches=shared",
        "++paths.largest_first=0.0",
        "++space.supernet=supernet.families.cell.CellSupernet",
    ]


def test_what_is_now_another_default_stays_as_it_was(run: Path) -> None:
    config = go_on()
    train = config.train
    assert (train.init, train.update, train.batches) == ("", "step", "shared")
    assert len(config.paths(space=config.space).draw(Random(0))) == 4  # from the first step on


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_where_it_is_said_to_be(name: str) -> None:
    now = CLASSES[name]
    assert find_class(now, "paths._target_").__name__ == name.rpartition(".")[2]
    text = f"+a.b=[{{_target_: {name}, _partial_: true}}]"
    assert renewed_overrides([text], {}, {}) == [text.replace(name, now)]
    assert renewed_overrides([text.replace(name, now)], {}, {}) == [text.replace(name, now)]


def test_settings_of_now_stay_as_they_are(tmp_path: Path) -> None:
    open_run([f"run={tmp_path}/made"], create=True)
    settings = load_mapping(tmp_path / "made" / SETTINGS)
    assert renewed_settings(settings) == settings
    overrides = ["run=made", "space.patch_size=4", "task.label_smoothing=0"]
    assert renewed_overrides(overrides, settings, settings) == overrides


@pytest.mark.parametrize("settings", [{}, {"space": 3}, {"space": {}, "data": {}, "train": []}])
def test_damaged_settings_are_left_to_the_comparison(settings: dict[str, object]) -> None:
    assert renewed_settings(settings) == settings
