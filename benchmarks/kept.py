"""Results of long work that a benchmark need not do again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nas.files import write_atomic


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What a JSON file holds, made and written where there is none."""
    if not path.exists():
        write_atomic(path, json.dumps(make()))
    return json.loads(path.read_text())
