"""What a folder of weights says of its licence."""

import re
from pathlib import Path

NOT_STATED = "not stated"


def licence_of(folder: Path) -> str:
    """The `license` in the front matter of a folder's README.md, as the Hub's cards have it; else "not stated"."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return NOT_STATED
    front = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    values = {}
    for line in front[1].splitlines() if front else ():
        found = re.match(r"(license|license_name):\s*(\S.*?)\s*$", line)
        if found:
            values[found[1]] = found[2].strip("\"'")
    stated = values.get("license", "")
    return (values.get("license_name", "") if stated == "other" else stated) or stated or NOT_STATED
