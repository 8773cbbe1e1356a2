"""Real clients asked of a small fleet, and the page that says what came of it.

python -m tests.clients.table        (behind `make clients`, which installs them)
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tests.clients.features import FEATURES
from tests.support.served_fleet import served_fleet

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = ROOT / ".clients"
SCRIPTS = Path(__file__).parent
RESULTS, PAGE = SCRIPTS / "results.json", ROOT / "docs" / "clients.md"
SECONDS = 120.0  # of one client, whose import alone may take some

Found: TypeAlias = dict[str, str]  # what came of each feature that it has

_BEGIN, _END = "<!-- made by `make clients` -->", "<!-- end -->"


@dataclass(frozen=True)
class Client:
    """`title` in the table; `package` whose version it has, as `where` (a folder of `.clients`) has it installed."""

    title: str
    script: str
    package: str
    where: str = "venv"

    @property
    def is_javascript(self) -> bool:
        return self.script.endswith(".mjs")

    @property
    def is_installed(self) -> bool:
        return (INSTALLED / self.where).exists()

    def version(self) -> str:
        if self.is_javascript:
            found: str = json.loads((INSTALLED / "npm/node_modules" / self.package / "package.json").read_text())["version"]
            return found
        ask = f"from importlib.metadata import version; print(version({self.package!r}))"
        return subprocess.run([_PYTHON, "-c", ask], env=self._environment(), capture_output=True, text=True, check=True).stdout.strip()

    def run(self, url: str, home: Path) -> Found:
        """Asks the server at `url`; what the client keeps goes to `home`. Raises AssertionError where it tells nothing."""
        script = SCRIPTS / self.script
        if self.is_javascript:  # imports are looked for from the script's own folder upwards
            moved = home / self.script
            moved.write_text(script.read_text())
            (home / "node_modules").symlink_to(INSTALLED / "npm/node_modules")
            script = moved
        command = ["node" if self.is_javascript else _PYTHON, str(script), url]
        done = subprocess.run(command, env=self._environment(home), capture_output=True, text=True, timeout=SECONDS, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found: Found = json.loads(done.stdout)
        return found

    def _environment(self, home: Path | None = None) -> dict[str, str]:
        """Of ours only what a program needs to start: no proxy, no key, no path to our own modules."""
        path = {"PYTHONPATH": str(INSTALLED / self.where)} if self.where not in ("venv", "npm") else {}
        return {"PATH": os.environ["PATH"], "HOME": str(home or INSTALLED), **path}


_PYTHON = str(INSTALLED / "venv" / "bin" / "python")
CLIENTS = {
    "openai": Client("`openai`", "of_openai.py", "openai"),
    "openai-before": Client("`openai`, a major before", "of_openai.py", "openai", "before"),
    "openai-npm": Client("`openai` of npm", "of_openai.mjs", "openai", "npm"),
    "agents": Client("OpenAI Agents", "of_agents.py", "openai-agents"),
    "langchain": Client("LangChain (`langchain-openai`)", "of_langchain.py", "langchain-openai"),
    "litellm": Client("LiteLLM", "of_litellm.py", "litellm"),
    "llm": Client("`llm`", "of_llm.py", "llm"),
    "ollama": Client("`ollama`", "of_ollama.py", "ollama"),
}


async def found_by_all() -> dict[str, Found]:
    """With each client's version."""
    with tempfile.TemporaryDirectory() as folder:
        async with served_fleet(Path(folder) / "fleet") as url:
            found = {}
            for name, client in CLIENTS.items():
                home = Path(folder) / name
                home.mkdir()
                found[name] = {"version": client.version(), **await asyncio.to_thread(client.run, url, home)}
            return found


def table(results: dict[str, Found]) -> str:
    """A row for each feature, in Markdown."""
    heads = [f"{client.title} {results[name]['version']}" for name, client in CLIENTS.items()]
    rows = [[words, *(results[name].get(feature, "–") for name in CLIENTS)] for feature, words in FEATURES.items()]
    lines = [["", *heads], ["---"] * (len(heads) + 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page_with(text: str, made: str) -> str:
    before, _, rest = text.partition(_BEGIN)
    return f"{before}{_BEGIN}\n\n{made}\n\n{_END}{rest.partition(_END)[2]}"


def main() -> None:
    results = asyncio.run(found_by_all())
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    PAGE.write_text(page_with(PAGE.read_text(), table(results)))


if __name__ == "__main__":
    main()
