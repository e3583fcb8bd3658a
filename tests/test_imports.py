"""Which way imports may point: from nas to supernet to search_spaces, and never up."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "search_spaces": {"search_spaces"},
    "supernet": {"supernet", "search_spaces", "torch", "timm"},
}
STAGES = {
    "nas.train.stage",
    "nas.search.stage",
    "nas.export.stage",
    "nas.rank.stage",
    "nas.report",
}  # with the command line on top


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Every module that a file imports anywhere, and every name that it takes from one."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    for path in files(package):
        found = {name.split(".")[0] for name in imported(path)} - sys.stdlib_module_names
        assert found <= PACKAGES[package], path


def test_only_the_command_line_imports_a_stage() -> None:
    for path in files("nas"):
        own = ".".join(path.relative_to(ROOT).with_suffix("").parts[:2])
        if own != "nas.__main__":
            assert not imported(path) & (STAGES | {"nas.__main__"}) - {own}, path


def test_the_report_reads_files_and_knows_no_other_part_of_the_pipeline() -> None:
    for path in files("nas/report"):
        ours = {name for name in imported(path) if name.split(".")[0] in ("nas", *PACKAGES)}
        assert all(name.startswith(("nas.report", "nas.files")) for name in ours), (path, ours)


def test_an_import_that_points_up_would_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("def load():\n    from nas import train\n    import supernet.vit\n")
    assert imported(path) == {"nas", "nas.train.stage", "supernet.families.vit"}
