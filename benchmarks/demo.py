"""The main job on real data, by the commands a person would type: train on digits, compare, and say where all is."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import count
from pathlib import Path

COMMAND = Path(sys.executable).with_name("thalweg")


def run(*words: str | Path) -> None:
    """Show a command, and run it; where it fails, so does the demonstration."""
    print(f"\n$ thalweg {' '.join(map(str, words))}\n", flush=True)
    if (code := subprocess.run([COMMAND, *words], check=False).returncode) != 0:
        sys.exit(code)


def main() -> None:
    """Run all of it."""
    began = time.perf_counter()
    folder = next(path for n in count(1) if not (path := Path("demo") / f"digits-{n}").exists())
    comparison = folder / "comparison.json"
    run("train", "digits", "--out", folder)
    run("compare", "digits", "--out", comparison)
    print(f"\nAll of it took {time.perf_counter() - began:.0f} s. It lies in {folder}/:")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(f"  {path.relative_to(folder)}")
    print(f"\nTo try next:\n  {COMMAND} predict {folder} digits\n  {COMMAND} flow {folder} --boats 10")


if __name__ == "__main__":
    main()
