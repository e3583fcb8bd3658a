"""A csv that lists images with the numbers to predict of each."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from nas.checks import check
from nas.config.sections import DataConfig

LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Row:
    """One image."""

    path: str
    values: tuple[float, ...]  # one for each of `data.columns`
    is_test: bool


def read_targets(config: DataConfig) -> list[Row]:
    """The lines of `data.targets`; ValueError names the line and what is wrong with it.

    Its column `file` is relative to `data.root`; `split`, which it may have, is train or test.
    """
    path = Path(config.root) / config.targets
    rows: dict[str, Row] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            header = list(reader.fieldnames or ())
            for name in ("file", *config.columns):
                rule = f"a header with the column {name} once"
                check(f"data.targets: {path} line 1", header.count(name) == 1, rule, header)
            for record in reader:
                where = f"data.targets: {path} line {reader.line_num}"
                fields = list(record.values())
                whole = len(fields) == len(header) and None not in fields
                check(where, whole, f"a line of {len(header)} fields", fields)
                row = read_row(config, record, where)
                check(f"{where}: file", row.path not in rows, "listed once", record["file"])
                rows[row.path] = row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"data.targets must be a csv file, got {path}: {error}") from error
    return list(rows.values())


def read_row(config: DataConfig, record: dict[str, str], where: str) -> Row:
    root = os.path.normpath(Path(config.root).absolute())
    path = Path(os.path.normpath(Path(root) / record["file"]))
    known = path.is_relative_to(root) and path.is_file()
    check(f"{where}: file", known, f"an image in {root}", record["file"])
    values = tuple(read_number(record[name], f"{where}: {name}") for name in config.columns)
    split = record.get("split", "train")
    check(f"{where}: split", split in ("train", "test"), "train or test", split)
    return Row(str(path), values, split == "test")


def read_number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    check(where, abs(number) <= LARGEST, "a number that float32 holds", text)
    return number
