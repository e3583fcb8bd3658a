"""What every part of a kind must do, as classes of tests.

Importable for parts of your own: subclass one, say which part is meant, and let pytest collect it.
Each module's docstring shows how.
"""

from pathlib import Path

import pytest

# pytest explains the assertions of test modules alone, unless it is told.
NAMES = [path.stem for path in Path(__file__).parent.glob("[!_]*.py")]
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in NAMES))
