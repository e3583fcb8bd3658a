import dataclasses
import json
from pathlib import Path

import pytest
import torch

from nas.files import locked
from nas.hardware.device import device_card, device_lock, digest, resolve_device
from nas.records import DeviceCard, checked, to_json
from tests.helpers.devices import CARD, INPUTS, TARGET


@pytest.mark.parametrize(
    ("num_gpus", "asked", "expected"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (0, "cuda", None),
        (0, "cuda:0", None),
        (2, "auto", "cuda:0"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
        (2, "cuda:2", None),
    ],
)
def test_device_is_the_one_asked_for_or_an_error(
    num_gpus: int, asked: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    if expected is None:
        with pytest.raises(
            ValueError, match=f"train.device must be a CUDA device.*has {num_gpus}, got '{asked}'"
        ):
            resolve_device(asked, "train.device")
    else:
        assert resolve_device(asked, "train.device") == torch.device(expected)


def test_card_names_the_threads_that_passes_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.hardware.device.DEFAULT_THREADS", 2)
    torch.set_num_threads(1)  # as train.threads may have done: a target does not depend on it
    default = dataclasses.replace(TARGET, threads=0)
    assert device_card(default, INPUTS).threads == 2
    assert device_card(TARGET, INPUTS).threads == 1


def test_card_on_one_line_says_device_batch_and_versions() -> None:
    text = CARD.describe()
    for part in (CARD.name, "cpu", "inputs 3 x 2 x 5 x 5", "float32", torch.__version__):
        assert part in text
    assert "\n" not in text


def test_a_card_does_not_depend_on_how_long_is_timed() -> None:
    longer = dataclasses.replace(TARGET, warmup=9, passes=99, precision=0.5, time_limit_s=1.0)
    assert device_card(longer, INPUTS) == CARD


@pytest.mark.parametrize("field", dataclasses.fields(DeviceCard), ids=lambda field: field.name)
def test_the_digest_of_a_card_tells_every_field(field: dataclasses.Field[object]) -> None:
    before: object = getattr(CARD, field.name)
    after = "other" if isinstance(before, str) else 99 if isinstance(before, int) else ((9, 9),)
    changed = dataclasses.replace(CARD, **{field.name: after})  # type: ignore[arg-type]
    assert digest(changed) != digest(CARD)
    read = checked(DeviceCard, json.loads(json.dumps(to_json(changed))), "card")
    assert (read, digest(read)) == (changed, digest(changed))


def test_a_device_has_one_lock_on_the_whole_machine() -> None:
    path = device_lock(torch.device("cpu"))
    assert path.parent != Path.cwd()
    with (
        locked(path, blocking=True) as first,
        locked(device_lock(torch.device("cpu")), blocking=False) as second,
    ):
        assert first
        assert not second
