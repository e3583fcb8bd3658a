"""What the stages left in a run's folder, read for the report."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from nas.files import read_records
from nas.report.formatting import Record, finite, fraction, text

INPUTS = (
    "config.yaml",
    "metrics.jsonl",
    "latency.jsonl",
    "candidates.jsonl",
    "paths.json",
    "rank.json",
    "search.json",
    "subnet/card.json",
)

CONDITIONS = ("step", "weights", "digest")  # of verdicts that compare


@dataclass(frozen=True)
class RunFiles:
    """The contents of a run's files; empty where a file is missing."""

    folder: Path
    config: Record
    metrics: list[dict[str, Any]]
    latency: list[dict[str, Any]]
    candidates: list[dict[str, Any]]
    search: Record
    card: Record  # of the exported subnet
    earlier_card: Record  # the same, where it is the choice of an earlier search
    paths: Record  # the probabilities that subnets are drawn with
    rank: Record  # how well the supernet ranks

    def command(self, stage: str) -> str:
        """The command that makes a stage's files, as HTML."""
        return f"<code>nas {text(stage)} run={text(self.config.get('run', self.folder))}</code>"

    def budget(self) -> dict[str, Any]:
        """The bounds that the search ran under; before it, those that the configuration sets."""
        bounds = part(self.search if self.search else self.config, "budget")
        return {name: limit for name, limit in bounds.items() if limit is not None}

    def judged(self) -> list[dict[str, Any]]:
        """The candidates of the search, each architecture once, in the order of judging.

        While there is no search.json, or one without them, those of candidates.jsonl that were
        judged as the newest was: others, of other weights or another target, do not compare.
        """
        found = parts(self.search, "candidates")
        return found or list(self.comparable().values())

    def comparable(self) -> dict[str, dict[str, Any]]:
        """The lines of candidates.jsonl that compare, by architecture; whole splits come first."""
        found: dict[str, dict[str, Any]] = {}
        for candidate in self.candidates:
            key = arch_key(candidate.get("arch"))
            if self.compares(candidate) and not (key in found and is_partial(candidate)):
                found[key] = candidate
        return found

    def compares(self, candidate: Record) -> bool:
        """Whether it was judged with the weights and on the target of the search."""
        source = self.search or self.candidates[-1]
        return all(candidate.get(key) == source[key] for key in CONDITIONS if key in source)

    def num_others(self) -> int:
        """How many lines of candidates.jsonl do not compare."""
        return sum(not self.compares(candidate) for candidate in self.candidates)

    def measured(self) -> dict[str, list[dict[str, Any]]]:
        """By digest of the device, the last measurement of each subnet that its lines hold.

        All milliseconds of a device are on the scale of its newest line.
        """
        newest: dict[str, dict[str, dict[str, Any]]] = {}
        scales: dict[str, float | None] = {}
        for line in self.latency:
            known, digest = part(line, "measurement"), str(line.get("digest"))
            if known:
                own = newest.setdefault(digest, {})
                own[arch_key(line.get("arch"))] = {**line, **known}
                scales[digest] = fraction(known.get("latency_ms"), known.get("ratio"))
        return {
            digest: [on_scale(record, scales[digest]) for record in own.values()]
            for digest, own in newest.items()
        }

    def named(self) -> dict[str, dict[str, Any]]:
        """The records of the smallest, the largest and the chosen subnet, where known.

        The chosen subnet is the exported one, which need not be the search's own choice.
        """
        named = {name: part(self.search, name) for name in ("smallest", "largest", "chosen")}
        arch = self.card.get("arch")
        if arch is not None and named["chosen"].get("arch") != arch:
            known = (record for record in self.judged() if record.get("arch") == arch)
            named["chosen"] = next(known, {"arch": arch})
        return {name: record for name, record in named.items() if record}

    def device(self, digest: object) -> dict[str, Any]:
        """The card of the device that a record with this digest was measured on."""
        # A search in another machine's table holds the card itself.
        known = (r for r in (*self.latency, self.search) if r.get("digest") == digest)
        return next((part(record, "card") for record in known), {})

    def newest_input(self) -> str:
        """When the newest of the files read was last changed, in UTC."""
        paths = [self.folder / name for name in INPUTS if (self.folder / name).exists()]
        if not paths:
            return ""
        newest = max(path.stat().st_mtime for path in paths)
        return datetime.fromtimestamp(newest, UTC).strftime("%Y-%m-%d %H:%M UTC")


def read_run(run: Path) -> RunFiles:
    """Reads a run's folder; ValueError names the file that is damaged.

    An export of what an earlier search had chosen says nothing of the last one.
    """
    search = read_object(run / "search.json")
    card = read_object(run / "subnet" / "card.json")
    earlier = card if is_outdated(card, search) else {}
    return RunFiles(
        folder=run,
        config=read_config(run / "config.yaml"),
        metrics=read_records(run / "metrics.jsonl"),
        latency=read_records(run / "latency.jsonl"),
        candidates=read_records(run / "candidates.jsonl"),
        search=search,
        card={} if earlier else card,
        earlier_card=earlier,
        paths=read_object(run / "paths.json"),
        rank=read_object(run / "rank.json"),
    )


def is_outdated(card: Record, search: Record) -> bool:
    """Whether an export is of an earlier search, or of what this one has since bettered."""
    study = card.get("study")
    if study is None:  # exported from a file
        return False
    best = str(card.get("command", "")).endswith("pick=best")
    bettered = best and card.get("arch") != part(search, "chosen").get("arch")
    return bool(search) and (study != search.get("study") or bettered)


def read_object(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, got: {error}") from error
    return as_mapping(value, path)


def read_config(path: Path) -> dict[str, Any]:
    """The configuration as written: an interpolation could read an environment variable."""
    if not path.exists():
        return {}
    return as_mapping(OmegaConf.to_container(OmegaConf.load(path), resolve=False), path)


def as_mapping(value: object, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{path} must be a mapping, got {type(value).__name__}")
    return value


def part(record: Record, key: str) -> dict[str, Any]:
    """A nested record; empty where it is missing, null or of another kind."""
    value = record.get(key)
    return value if isinstance(value, dict) else {}


def parts(record: Record, key: str) -> list[dict[str, Any]]:
    """The records in a nested list; what is none is left out."""
    values = record.get(key)
    return [one for one in values if isinstance(one, dict)] if isinstance(values, list) else []


def arch_key(arch: object) -> str:
    return json.dumps(arch, sort_keys=True)


def is_partial(candidate: Record) -> bool:
    """Whether its accuracy is of the first images of the split alone."""
    return candidate.get("complete") is False


def on_scale(record: dict[str, Any], scale: float | None) -> dict[str, Any]:
    ratio = finite(record.get("ratio"))
    return record if ratio is None or scale is None else {**record, "latency_ms": ratio * scale}
