"""Bad input, said in one form: the key, the rule and what came."""

import math


def check(key: str, holds: bool, rule: str, value: object) -> None:
    """Raises ValueError that names the key, the rule and what came, unless the rule holds."""
    if not holds:
        raise ValueError(f"{key} must be {rule}, got {value!r}")


def check_positive(prefix: str, values: object, *keys: str) -> None:
    """Of attributes, which must be finite; the prefix stands before each key in the message."""
    for key in keys:
        value = getattr(values, key)
        check(f"{prefix}{key}", 0 < value < math.inf, "positive", value)
