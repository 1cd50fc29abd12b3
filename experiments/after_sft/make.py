"""Questions about Python's own types, with answers that Python itself checks.

    python experiments/after_sft/make.py

writes chats.jsonl (to tune on) and tasks/*.jsonl (to evaluate by) beside this file. Which type has
a method? Every third method is asked only in evaluation.
"""

import json
from collections import Counter
from pathlib import Path

TYPES = (str, list, dict, set, int, float)
HERE = Path(__file__).parent


def owners() -> dict[str, str]:
    """Return the type of every public method that only one of the types has."""
    found = [(name, kind) for kind in TYPES for name in dir(kind) if not name.startswith("_")]
    n = Counter(name for name, _ in found)
    return {name: kind.__name__ for name, kind in sorted(found, key=lambda f: f[0]) if n[name] == 1}


def main() -> None:
    """Write the files."""
    chats, tuned, held = [], [], []
    for number, (name, kind) in enumerate(owners().items()):
        choices = [one.__name__ for one in TYPES]
        asked = {"q": f"Which type has {name}?", "choices": choices, "answer": choices.index(kind)}
        (held if number % 3 == 2 else tuned).append(asked)
        if number % 3 != 2:
            turns = [("user", asked["q"]), ("assistant", kind)]
            chats.append({"messages": [{"role": r, "content": t} for r, t in turns]})
    for name, records in (
        ("chats", chats), ("tasks/methods_tuned", tuned), ("tasks/methods_held", held),
    ):  # fmt: skip
        text = "".join(json.dumps(record) + "\n" for record in records)
        (HERE / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
