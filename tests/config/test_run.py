"""Run folders: what they remember, what later commands may change, and what strangers put in."""

import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import nas.config.run_folder
from nas.__main__ import main
from nas.config.config import Config
from nas.config.run_folder import MEMORY, SETTINGS, flatten, merge_overrides, open_run
from nas.files import write_atomic
from search_spaces.vit import ViTSpace

MADE_WITH = ["seed=3", "space.depth=[1,2]", "train.epochs=9", "target=cpu", "target.passes=7"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Path:
    """A run with something in it, so that its training options are settled."""
    _, path = open_run(["run=made", *MADE_WITH], create=True)
    (path / "metrics.jsonl").touch()
    return path


def go_on(*overrides: str, conf: Path | None = None) -> Config:
    return open_run(["run=made", *overrides], conf, create=True)[0]


def look_up(*overrides: str, conf: Path | None = None) -> Config:
    """As the stages do that come after training."""
    return open_run(["run=made", *overrides], conf, create=False)[0]


def space_of(config: Config) -> ViTSpace:
    assert isinstance(config.space, ViTSpace)
    return config.space


def files(path: Path) -> dict[str, bytes]:
    found = (file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in found}


# Memory


def test_later_stages_inherit_the_options_of_the_command_that_made_the_run(run: Path) -> None:
    config = look_up()
    assert (config.run, config.seed, config.train.epochs) == ("made", 3, 9)
    assert space_of(config).depth == (1, 2)
    assert (config.target.device, config.target.passes) == ("cpu", 7)


def test_a_later_stage_may_add_options_which_are_its_own(run: Path) -> None:
    before = files(run)
    options = ["budget.params=5000", "search=random", "search.trials=4", "target.passes=8"]
    config = look_up(*options, "wandb.mode=offline")
    assert config.budget.record() == {"params": 5000}
    assert (config.search.trials, config.target.passes) == (4, 8)
    assert config.search.sampler["_target_"].endswith("RandomSampler")
    assert (config.target.device, config.wandb.mode) == ("cpu", "offline")
    assert files(run) == before
    assert not look_up().budget


def test_another_file_of_a_group_keeps_the_keys_that_were_set_beside_it(run: Path) -> None:
    config = look_up("target=auto")
    assert (config.target.device, config.target.passes) == ("auto", 7)


def test_of_the_same_key_the_last_counts(folder: Path) -> None:
    twice = ["seed=1", "space=autoformer_tiny", "train.epochs=7", "seed=2", "space=digits"]
    config, _ = open_run(twice, create=True)
    assert (config.seed, space_of(config).head_dim, config.train.epochs) == (2, 16, 7)
    assert config.run == "runs/digits"


@pytest.mark.parametrize(
    ("earlier", "later", "merged"),
    [
        (["a=1", "b=2"], ["a=3"], ["b=2", "a=3"]),
        (["+a.b=1"], ["++a.b=2"], ["++a.b=2"]),
        (["a.b=1"], ["a=2"], ["a.b=1", "a=2"]),
        (["a=x=y"], ["~c"], ["a=x=y", "~c"]),
        ([], ["a=1", "a=2"], ["a=2"]),
    ],
)
def test_overrides_are_merged_by_key(
    earlier: list[str], later: list[str], merged: list[str]
) -> None:
    assert merge_overrides(earlier, later) == merged


def test_the_folder_may_be_named_by_other_keys_and_by_an_experiment(folder: Path) -> None:
    _, path = open_run(["run=runs/${data.name}-${seed}", "seed=5"], create=True)
    assert path == Path("runs/digits-5")
    _, path = open_run(["experiment=demo", "seed=5"], create=True)
    assert path == Path("runs/demo")
    assert open_run(["experiment=demo"], create=False)[0].seed == 5


# Changes


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("seed=4", "seed: 3 there, 4 now"),
        ("train.epochs=10", "train.epochs: 9 there, 10 now"),
        ("space.depth=[1,3]", "space.depth: [1, 2] there, [1, 3] now"),
        ("data.batch_size=32", "data.batch_size: 64 there, 32 now"),
        ("paths.num_random=1", "paths.num_random: 2 there, 1 now"),
        ("distillation.hard_weight=1", "distillation.hard_weight: 0.5 there, 1 now"),
        ("+train.probes.a={}", "train.probes.a"),
    ],
)
def test_a_changed_training_key_is_refused_with_both_values(
    run: Path, change: str, difference: str
) -> None:
    arch = "{embed_dim: 32, num_heads: [2], mlp_ratio: [1], rank: [0], num_atoms: 2}"
    with pytest.raises(ValueError, match="made was made with other settings") as caught:
        go_on(change.replace("{}", arch))
    assert difference in str(caught.value)


def test_all_changes_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(run)
    assert main(["train", "run=made", "seed=4", "source=own", "train.lr=0.1"]) == 2
    message = capsys.readouterr().err
    for key in ("seed: 3", "source.q", "space.rank: [0, 4, 8] there, [0] now", "train.lr: 0.002"):
        assert key in message
    assert "source.o" not in message
    assert files(run) == before


def test_where_and_how_often_may_change(folder: Path) -> None:
    images = ["data=image_folder", "data.num_classes=3"]
    _, path = open_run(["run=made", *images, "data.root=there"], create=True)
    (path / "metrics.jsonl").touch()
    changes = ["data.root=here", "data.workers=1", "train.log_every=1", "train.checkpoint_every=1"]
    config = go_on(*changes)
    assert (config.data.root, config.data.workers) == ("here", 1)
    assert (config.train.log_every, config.train.checkpoint_every) == (1, 1)


def test_the_same_value_in_other_words_is_no_change(run: Path) -> None:
    config = go_on("train.lr=0.002", "data.flip=False", "train.weight_decay=5e-2")
    assert config.train.lr == 0.002


def test_a_command_that_left_nothing_may_be_put_right_and_is_remembered(folder: Path) -> None:
    open_run(["run=made", "seed=3", "data.batch_size=4096"], create=True)
    assert go_on("data.batch_size=32").seed == 3
    (folder / "made" / "metrics.jsonl").touch()
    config = look_up()
    assert (config.seed, config.data.batch_size) == (3, 32)
    with pytest.raises(ValueError, match=r"data\.batch_size: 32 there, 4096 now"):
        go_on("data.batch_size=4096")


# Folders


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("train", "notes.txt"),
        ("train", SETTINGS),
        ("measure", ".git/config"),
        ("search", "notes.txt"),
        ("export", SETTINGS),
        ("report", "notes.txt"),
    ],
)
def test_a_folder_that_is_no_run_is_refused_and_left_alone(
    folder: Path, stage: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "photos" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine: 1\n")
    assert main([stage, "run=photos"]) == 2
    assert capsys.readouterr().err.startswith(f"nas {stage}: run must be a")
    assert files(folder) == {f"photos/{name}": b"mine: 1\n"}


@pytest.mark.parametrize("create", [True, False])
def test_a_file_is_no_run_folder(folder: Path, create: bool) -> None:
    (folder / "made").write_text("mine")
    with pytest.raises(ValueError, match="run must be a"):
        open_run(["run=made"], create=create)
    assert files(folder) == {"made": b"mine"}


def test_an_empty_folder_becomes_a_run(folder: Path) -> None:
    (folder / "made").mkdir()
    go_on()
    assert files(folder).keys() == {f"made/{MEMORY}", f"made/{SETTINGS}"}


@pytest.mark.parametrize("num_written", [0, 1])
@pytest.mark.parametrize("torn", [True, False])
def test_a_crash_while_a_run_is_made_does_not_spoil_its_folder(
    folder: Path, num_written: int, torn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def crash(path: Path, data: bytes | str) -> None:
        if len(written) == num_written:
            if torn:  # as SIGKILL leaves it
                path.with_name(f".{path.stem}.0a1b2c{path.suffix}").write_text("see")
            raise KeyboardInterrupt
        written.append(path.name)
        write_atomic(path, data)

    monkeypatch.setattr(nas.config.run_folder, "write_atomic", crash)
    with pytest.raises(KeyboardInterrupt):
        go_on("seed=3")
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert go_on("seed=3").seed == 3
    assert look_up().seed == 3
    assert OmegaConf.load(folder / "made" / SETTINGS).seed == 3


# Own groups


@pytest.fixture
def conf(folder: Path) -> Path:
    """A folder of own groups: a space of one depth and a target."""
    lines = ["defaults: [digits]", "embed_dim: [16]", "depth: [3]"]
    (folder / "own" / "space").mkdir(parents=True)
    (folder / "own" / "space" / "mine.yaml").write_text("\n".join(lines))
    (folder / "own" / "target").mkdir()
    (folder / "own" / "target" / "phone.yaml").write_text("defaults: [cpu]\nbatch_size: 1\n")
    return folder / "own"


def test_own_groups_are_found_and_remembered(
    conf: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert space_of(go_on("space=mine", "target.passes=9", conf=Path("own"))).depth == (3,)
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    config, _ = open_run([f"run={folder}/made", "target=phone"], create=False)
    assert space_of(config).depth == (3,)
    assert (config.target.device, config.target.batch_size) == ("cpu", 1)


def test_a_later_stage_may_bring_its_own_groups(conf: Path, run: Path) -> None:
    assert look_up("target=phone", conf=conf).target.batch_size == 1


def test_own_files_may_not_hide_behind_those_of_the_package(conf: Path) -> None:
    (conf / "space" / "digits.yaml").write_text("depth: [9]")
    with pytest.raises(ValueError, match=r"--conf must be .*got \['space/digits.yaml'\]"):
        go_on("space=mine", conf=conf)


@pytest.mark.parametrize("name", ["absent", "o'clock", "a$b", "a\\b"])
def test_a_folder_of_groups_that_hydra_could_not_search_is_refused(folder: Path, name: str) -> None:
    if name != "absent":
        (folder / name).mkdir()
    with pytest.raises(ValueError, match=r"^--conf must be a"):
        go_on(conf=folder / name)
    assert not (folder / "made").exists()


@pytest.mark.parametrize("text", ["a: [", "!!python/object/apply:os.getcwd []", "a: ${"])
def test_a_damaged_own_file_is_bad_input(
    conf: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (conf / "space" / "mine.yaml").write_text(text)
    assert main(["train", "run=made", "--conf", "own", "space=mine"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# What a stranger may have put into a run folder


@pytest.fixture
def canary(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that appears when the package evil, which can be imported, is."""
    path = folder / "canary"
    code = f"import pathlib\npathlib.Path({str(path)!r}).touch()\nclass Evil: pass\n"
    (folder / "evil").mkdir()
    (folder / "evil" / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    monkeypatch.setenv("TOKEN", "s3cret")
    return path


HOSTILE_OVERRIDES = [
    "space._target_=evil.Evil",
    "++search.sampler.gamma={_target_: evil.Evil}",
    "++search.sampler.gamma='${oc.create:{_target_: evil.Evil}}'",
    r"++search.sampler.gamma='\\\${oc.create:{_target_: evil.Evil}}'",
    "source.q.parts=[{_target_: evil.Evil, _partial_: true}]",
    "wandb.project=${oc.env:TOKEN}",
    r"wandb.project='\${oc.env:TOKEN}'",
    "hydra.searchpath=[pkg://evil]",
    "hydra.searchpath=['pkg://evil']",
]


@pytest.mark.parametrize("override", HOSTILE_OVERRIDES)
def test_overrides_of_a_stranger_run_nothing_and_read_no_secret(
    override: str, run: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    OmegaConf.save({"conf": "", "overrides": [*MADE_WITH, override]}, run / MEMORY)
    before = files(run)
    assert main(["search", "run=made"]) == 2
    output = capsys.readouterr()
    assert "s3cret" not in output.out + output.err
    assert not canary.exists()
    assert files(run) == before


@pytest.mark.parametrize(
    "text",
    [
        "space: {_target_: evil.Evil}",
        "seed: ${oc.env:TOKEN}",
        "seed: '${oc.create:{_target_: evil.Evil}}'",
    ],
)
def test_a_strangers_config_is_compared_as_it_is_written(
    text: str, run: Path, canary: Path
) -> None:
    (run / SETTINGS).write_text(text)
    with pytest.raises(ValueError, match="made with other settings") as caught:
        look_up()
    assert "s3cret" not in str(caught.value)
    assert not canary.exists()


@pytest.mark.parametrize(
    "text",
    ["_target_: evil.Evil", "!!python/object/apply:evil.Evil []", "_target_: ${oc.env:TOKEN}"],
)
@pytest.mark.parametrize("group", ["space", "search", "paths"])
def test_a_strangers_groups_run_nothing(group: str, text: str, run: Path, canary: Path) -> None:
    hostile = run / "conf" / group / "mine.yaml"
    hostile.parent.mkdir(parents=True)
    hostile.write_text(f"sampler:\n  {text}" if group == "search" else text)
    memory = {"conf": str(run / "conf"), "overrides": [*MADE_WITH, f"{group}=mine"]}
    OmegaConf.save(memory, run / MEMORY)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 # the message is looked at below
        look_up()
    assert "s3cret" not in str(caught.value)
    assert not canary.exists()


@pytest.mark.parametrize("conf", ["x','pkg:/evil", "pkg://evil", "${oc.env:TOKEN}", "absent"])
def test_a_stranger_cannot_lead_hydra_to_a_package(conf: str, run: Path, canary: Path) -> None:
    if conf != "absent":
        Path(conf).mkdir(parents=True)
    memory = {"conf": conf.replace("$", "\\$"), "overrides": MADE_WITH}
    OmegaConf.save(memory, run / MEMORY)
    if conf == "pkg://evil":  # a folder of this name, which is searched as any other
        assert look_up().seed == 3
    else:
        with pytest.raises(ValueError, match="--conf must be a"):
            look_up()
    assert not canary.exists()


@pytest.mark.parametrize("name", [MEMORY, SETTINGS])
@pytest.mark.parametrize(
    "damage",
    [b"", b"- 1\n", b"a: [", b"\xff\xfe\x00", b"conf: 3\noverrides: []\n", b"overrides: x\n"],
)
def test_a_damaged_file_of_a_run_is_bad_input(run: Path, name: str, damage: bytes) -> None:
    (run / name).write_bytes(damage)
    with pytest.raises(ValueError, match=r"made"):
        look_up()


@pytest.mark.parametrize(
    ("node", "flat"),
    [
        ({"a": {"b": 1, "c": {"d": [1, {"e": 2}]}}}, {"a.b": 1, "a.c.d": [1, {"e": 2}]}),
        ({"a": None, "b": "${x}"}, {"a": None, "b": "${x}"}),
    ],
)
def test_flatten_gives_dotted_keys(node: dict[str, Any], flat: dict[str, Any]) -> None:
    assert dict(flatten(node)) == flat
