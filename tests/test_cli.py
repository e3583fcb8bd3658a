"""The command line: what help tells, how errors read, and the exit codes."""

import re
import signal
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from nas.__main__ import STAGES, main
from nas.config.config import Config, Options
from nas.config.run_folder import compose_config, conf_dir, flatten
from nas.exits import Diverged, Infeasible, NotEqual, Stopped

KEY_VALUE = (
    "an option must be key=value, with quotes round a value of special characters (key='~/x')"
)
SetStage = Callable[[Exception | None], None]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default run folder is relative to where a command is given."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def set_training(monkeypatch: pytest.MonkeyPatch) -> SetStage:
    """Puts a function that raises in the place of training."""

    def set_stage(ending: Exception | None) -> None:
        def run(name: str, config: Config, run: Path, console: Console) -> None:
            if ending:
                raise ending

        monkeypatch.setattr("nas.__main__.run_stage", run)

    return set_stage


def help_of(stage: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main([stage, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


# Help


def test_help_lists_every_stage_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for name, stage in STAGES.items():
        assert re.search(rf"^ +{name} +{re.escape(stage.summary[:40])}", text, re.MULTILINE)
    assert "3 no subnet meets the budgets, 128 + N on signal N" in text


@pytest.mark.parametrize("stage", STAGES)
def test_help_of_a_stage_shows_each_key_and_each_file_that_it_reads(
    stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(stage, capsys)
    sections = (*STAGES[stage].keys, *STAGES[stage].groups)
    raw = OmegaConf.to_container(compose_config([]))
    # A source is a tree to pick as a whole; a class is picked with its file.
    leaves = [key for key, _ in flatten(raw) if not key.startswith("source.")]
    wanted = [key for key in leaves if key.split(".")[0] in sections and "_target_" not in key]
    if "train" in sections:
        wanted.append("train.probes")
    for group in STAGES[stage].groups:
        files = (conf_dir() / group).glob("*.yaml")
        wanted += [f"{group}={path.stem}" for path in files]
    for option in wanted:
        assert re.search(rf"^  {re.escape(option)}(=| |$)", text, re.MULTILINE), option


def test_defaults_that_help_shows_change_nothing_when_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = "".join(help_of(stage, capsys) for stage in STAGES)
    found = re.findall(r"^  ([a-z_]+(?:\.[a-z_]+)*)=(\[.*?\]|\S+)", text, re.MULTILINE)
    others = {path.name for path in conf_dir().iterdir()} | {"key"}  # key=value: the usage
    overrides = {f"{key}={value}" for key, value in found if key not in others}
    assert len(overrides) > 50
    assert compose_config(sorted(overrides)) == compose_config([])


def test_every_option_is_in_the_help_of_some_stage() -> None:
    shown = {name for stage in STAGES.values() for name in (*stage.keys, *stage.groups)}
    assert {field.name.removesuffix("_") for field in fields(Options)} <= shown


# Errors


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("train.epoch=3", "train.epoch must be an option of train (epochs), got 'epoch'"),
        ("+train.epoch=3", "train.epoch must be an option of train (epochs), got 'epoch'"),
        ("x=3", "x must be an option (space, source, data, "),
        ("spce=digits", "spce must be an option (space, source), got 'spce'"),
        ("space=nope", "space must be one of autoformer_base, autoformer_small, autoformer_tiny, "),
        ("train.probes.a=3", "train.probes.a must be an option of train.probes (it has none; +"),
        ("train.epochs", f"{KEY_VALUE}, got 'train.epochs': missing EQUAL"),
        ("train.epochs=[1", f"{KEY_VALUE}, got 'train.epochs=[1': no viable"),
        ("data.root=~/x", f"{KEY_VALUE}, got 'data.root=~/x'\n"),
        ("train.epochs=abc", "train.epochs must be of type int, got 'abc'"),
        ("train.epochs=0", "train.epochs must be positive, got 0"),
        ("train.opt=adamq", "train.opt must be a name of timm's optimizer factory, got 'adamq'"),
        ("~train.epochs", "train.epochs must be of type int, got None"),
        ("~nope", "Could not delete from config. 'nope' does not exist."),
        ("space=null", "Config group override must be a string or a list. Got NoneType, among"),
        ("seed=1,2", "Ambiguous value for argument 'seed=1,2'; 1. To use it as a list"),
        ("seed=${nope}", "Interpolation key 'nope' not found, among {"),
        ("run=", "run must be the name of a folder, in quotes if it reads as a number, got ''"),
        ("run=2024_1", "run must be the name of a folder, in quotes if it reads as a number"),
    ],
)
def test_bad_input_ends_with_2_and_one_line_before_anything_is_done(
    option: str,
    message: str,
    folder: Path,
    set_training: SetStage,
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_training(AssertionError("the stage was reached"))
    assert main(["train", option]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"nas train: {message}")
    assert output.err.count("\n") == 1
    assert not any(folder.iterdir())


@pytest.mark.parametrize(
    "arguments", [[], ["trian"], ["train", "--cfg", "job"], ["train", "seed=1", "-x"]], ids=str
)
def test_an_unknown_stage_or_flag_ends_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_options_may_stand_on_both_sides_of_conf(
    folder: Path, set_training: SetStage, capsys: pytest.CaptureFixture[str]
) -> None:
    set_training(None)
    (folder / "own").mkdir()
    assert main(["train", "run=x", "seed=3", "--conf", "own", "train.epochs=9"]) == 0
    written = OmegaConf.load(folder / "x" / "config.yaml")
    assert (written.seed, written.train.epochs) == (3, 9)


# Exit codes


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (None, 0),
        (Diverged("loss is nan"), 1),
        (NotEqual("model.onnx differs"), 1),
        (OSError(28, "No space left on device"), 1),
        (ValueError("data.root must be a folder"), 2),
        (Infeasible("no subnet"), 3),
        (Stopped(signal.SIGINT), 130),
        (Stopped(signal.SIGTERM), 143),
    ],
    ids=str,
)
def test_the_exit_code_tells_how_a_stage_ended(
    ending: Exception | None,
    code: int,
    set_training: SetStage,
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_training(ending)
    assert main(["train", "run=x"]) == code
    assert capsys.readouterr().err == (f"nas train: {ending}\n" if ending else "")


def test_our_own_mistakes_are_not_reported_as_bad_input(set_training: SetStage) -> None:
    set_training(KeyError("mistake"))
    with pytest.raises(KeyError, match="mistake"):
        main(["train", "run=x"])
