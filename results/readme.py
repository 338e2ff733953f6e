"""Makes the tables in results/README.md anew: each stands below the command that prints it, in a comment.

    python results/readme.py

    <!-- python tables.py --details results/digits/float32.csv -->
    (what it prints)
    <!-- end -->
"""
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "results" / "README.md"
TABLE = re.compile(r"(?P<start><!-- python (?P<words>.+?) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)


def renewed(text: str) -> str:
    """A text with all of its tables as their commands print them now."""
    return TABLE.sub(lambda found: found["start"] + printed(shlex.split(found["words"])).strip() + "\n" + found["end"], text)


def printed(words: list[str]) -> str:
    """What a script of this repository prints, called with these words."""
    return subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(__doc__)
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
