"""Every preset space: extracted subnets equal the supernet, the ledger equals the files.

`benchmarks/exactness.py` does the same for 100 architectures each.
"""

import pytest

from benchmarks.exactness import check
from nas.config.config import parse
from nas.config.run_folder import compose_config, conf_dir
from search_spaces.vit import ViTSpace

PRESETS = sorted(path.stem for path in (conf_dir() / "space").glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_presets_subnets_are_exact(preset: str) -> None:
    found = check(preset, num_archs=2)
    assert found["largest_difference"] <= 1e-5
    assert found["wrong_counts"] == 0


def test_the_autoformer_presets_reach_the_published_sizes() -> None:
    """Chen et al., 2021, table of supernets: 240, 448 and 624 wide, 14, 14 and 16 blocks deep."""
    sizes: dict[str, tuple[float, ...]] = {}
    for preset in ("autoformer_tiny", "autoformer_small", "autoformer_base"):
        space = parse(compose_config([f"space={preset}", "data=cifar10"])).space
        assert isinstance(space, ViTSpace)
        arch = space.largest()
        sizes[preset] = (arch.embed_dim, arch.depth, arch.num_heads[0], arch.mlp_ratio[0])
    assert sizes == {
        "autoformer_tiny": (240, 14, 4, 4),
        "autoformer_small": (448, 14, 7, 4),
        "autoformer_base": (624, 16, 10, 4),
    }
