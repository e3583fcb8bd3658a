"""Bad input, said in one form: the key, the rule and what came."""


def check(key: str, holds: bool, rule: str, value: object) -> None:
    """Raises ValueError that names the key, the rule and what came, unless the rule holds."""
    if not holds:
        raise ValueError(f"{key} must be {rule}, got {value!r}")
