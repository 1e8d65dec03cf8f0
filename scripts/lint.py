"""Project rules that ruff does not have; `make lint` runs them after ruff.

    python -m scripts.lint

Each rule is a function of the repository that yields one sentence for each violation, with the file
that has it. The rules on requirements are in lint_requirements.py. The exit code is 1 where a rule
is broken.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

Rule = Callable[["Repository"], Iterator[str]]

# Longest files, by the first pattern that fits.
MAX_LINES = {
    "projects/*/configs/**/*.py": 50,
    "projects/*/train_net.py": 200,
    "tests/**/*.py": 500,
    "**/*.py": 400,
}
# Imports run one way: what each room of the package may not import.
_USERS = {"commands", "export", "finetuning", "labelling", "serving", "visualization"}
CLOSED = {
    "modeling": {"data", "engine", "evaluation", "inference", *_USERS},
    "data": {"modeling", "engine", "evaluation", "inference", *_USERS},
    "engine": {"inference", *_USERS},
    "evaluation": {"engine", "commands", "export", "finetuning", "labelling", "serving"},
    "inference": {"engine", "evaluation", *_USERS},
    "export": {"engine", "evaluation", *(_USERS - {"export"})},
    "visualization": {"engine", "evaluation", *(_USERS - {"visualization"})},
    "finetuning": {"commands", "labelling", "serving"},
    "labelling": {"commands", "export", "serving"},
    "serving": {"engine", "evaluation", "commands", "export", "finetuning", "labelling"},
}
BINARY = {".png", ".jpg", ".webp", ".gif", ".svg", ".safetensors", ".npz", ".tar", ".gz"}
# Brackets keep the patterns from matching themselves. The home of "user" or "you" is an example.
MACHINE = re.compile(
    r"/[r]oot/|/[h]ome/(?!user\b|you\b)\w+|/[w]ork/|/[U]sers/(?!user\b|you\b)\w+"
    r"|[p]ythonhosted[.]org|[p]ypi\.org/simple|--[i]ndex-url"
)

# Words that are not written -> the word of docs/glossary.md to write instead.
WORDS = {
    r"\b[y]ards?\b": "the Swin-T reference",
    r"\b[b]y heart\b": "overfit",
    r"\b(?:told|tell|tells) [a]part\b": "distinguish",
    r"\bshare[sd]? [o]ut\b": "shard",
    r"\b[m]end(?:s|ed|ing)?\b": "fix",
    r"\b(?:leaves?|leaving|left) [o]ut\b": "skip",
    r"\b(?:is|are) [t]old\b": "report",
    r"\bmade[- ][u]p\b": "synthetic",
}


class Repository:
    """The files that belong to the project: those that git does not ignore."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def files(self) -> list[Path]:
        """All of them, sorted.

        Raises:
            OSError, CalledProcessError: this is not a git checkout.
        """
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=True)
        paths = (self.root / line for line in sorted(set(done.stdout.splitlines())))
        return [path for path in paths if path.is_file()]

    def select(self, *suffixes: str, under: str = "") -> list[Path]:
        """Files with one of `suffixes` in the folder `under`."""
        return [
            path
            for path in self.files
            if path.suffix in suffixes and path.is_relative_to(self.root / under)
        ]

    def name(self, path: Path) -> str:
        """A file as the repository calls it."""
        return path.relative_to(self.root).as_posix()


def no_path_of_a_machine(repository: Repository) -> Iterator[str]:
    """No path of somebody's machine and no host of a package index is in the repository."""
    for path in repository.files:
        if path.suffix in BINARY:
            continue
        if found := MACHINE.search(path.read_text(encoding="utf-8", errors="replace")):
            yield f"{repository.name(path)}: names {found.group()!r}, which is of one machine"


def words_of_the_field(repository: Repository) -> Iterator[str]:
    """Prose and code use the words of the field: see ``WORDS``."""
    for path in repository.select(".py", ".md", ".sh", ".cfg"):
        text = path.read_text("utf-8")
        for pattern, better in WORDS.items():
            if found := re.search(pattern, text, re.IGNORECASE):
                line = text.count("\n", 0, found.start()) + 1
                yield f"{repository.name(path)}:{line}: for {found.group()!r}, write {better!r}"


def version_in_one_place(repository: Repository) -> Iterator[str]:
    """``detclip2.__version__`` is the version, and the change log has it."""
    home = "detclip2/__init__.py"
    pattern = r"^__version__ = \"(.+)\"$"
    found = re.search(pattern, (repository.root / home).read_text("utf-8"), re.MULTILINE)
    if found is None:
        yield f"{home}: has no line __version__ = ..."
        return
    version = found.group(1)
    if f"## {version} " not in (repository.root / "CHANGELOG.md").read_text("utf-8"):
        yield f"CHANGELOG.md: has no heading of version {version}"
    copy = re.compile(rf"version.*\b{re.escape(version)}\b")
    for path in repository.select(".py", ".cfg", ".toml"):
        if repository.name(path) != home and copy.search(path.read_text("utf-8")):
            yield f"{repository.name(path)}: repeats the version {version}; read it from {home}"


def files_are_short(repository: Repository) -> Iterator[str]:
    """A file has one subject and a limited length: see ``MAX_LINES``."""
    limits: dict[Path, int] = {}
    for pattern, limit in MAX_LINES.items():
        for path in repository.root.glob(pattern):
            limits.setdefault(path, limit)
    for path in repository.select(".py"):
        lines = len(path.read_text("utf-8").splitlines())
        if lines > limits[path]:
            yield f"{repository.name(path)}: has {lines} lines, at most {limits[path]} are allowed"


def imports_run_one_way(repository: Repository) -> Iterator[str]:
    """A room of the package imports none of the rooms that build on it: see ``CLOSED``."""
    for room, closed in CLOSED.items():
        for path in repository.select(".py", under=f"detclip2/{room}"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                modules: list[str] = []
                if isinstance(node, ast.Import):
                    modules = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module == "detclip2":
                    modules = [f"detclip2.{alias.name}" for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    modules = [node.module or ""]
                for module in modules:
                    package, _, rest = module.partition(".")
                    if package == "detclip2" and rest.partition(".")[0] in closed:
                        yield f"{repository.name(path)}: {room} may not import {module}"


def commands_have_modules(repository: Repository) -> Iterator[str]:
    """Each command of the command line has its module, and each module its command."""
    table = (repository.root / "detclip2/cli.py").read_text("utf-8")
    block = re.search(r"^COMMANDS\b.*?^\}", table, re.MULTILINE | re.DOTALL)
    names = re.findall(r"^    \"([a-z-]+)\":", block.group() if block else "", re.MULTILINE)
    if not names:
        yield "detclip2/cli.py: its table COMMANDS cannot be read"
    # Modules that commands share have no `run`.
    modules = {
        path.stem
        for path in repository.select(".py", under="detclip2/commands")
        if "\ndef run(" in path.read_text("utf-8")
    }
    for name in sorted({name.replace("-", "_") for name in names} ^ modules):
        missing = "command in detclip2/cli.py" if name in modules else "module"
        yield f"detclip2/commands/{name}.py: has no {missing}"


def code_of_page(text: str) -> str:
    """The code of a Markdown file: blocks, and spans between backticks, one a line.

    A line that ends in a backslash is joined to the next.
    """
    fences = re.findall(
        r"^```[a-z]*(?: title=.*)?\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE
    )
    indented = re.findall(r"^    (.+)$", text, flags=re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", text)
    return re.sub(r"\\\n\s*", " ", "\n".join([*fences, *indented, *spans]))


def documented_make_targets_exist(repository: Repository) -> Iterator[str]:
    """``make TARGET`` in the documents is a target of the Makefile."""
    makefile = (repository.root / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    undocumented = {"demo", "quick", "test"}
    for page in repository.select(".md"):
        code = code_of_page(page.read_text("utf-8"))
        for target in re.findall(r"^(?:\w+=\S+ )?make (?:\w+=\S+ )?([a-z]+)", code, re.MULTILINE):
            undocumented.discard(target)
            if target not in targets:
                yield f"{repository.name(page)}: the Makefile has no target {target!r}"
    for target in sorted(undocumented):
        yield f"Makefile: no document says what `make {target}` does"


def documented_scripts_exist(repository: Repository) -> Iterator[str]:
    """``python FILE`` and ``bash FILE`` in the documents name files of the repository."""
    path = r"\b(?:python|bash) ((?:[\w.-]+/)+[\w.-]+\.(?:py|sh))"
    for page in repository.select(".md"):
        for script in set(re.findall(path, code_of_page(page.read_text("utf-8")))):
            if not (repository.root / script).is_file():
                yield f"{repository.name(page)}: there is no script {script}"


def links_lead_somewhere(repository: Repository) -> Iterator[str]:
    """A relative link of a document leads to a file."""
    for page in repository.select(".md"):
        text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
            if "://" not in target and not (page.parent / target).exists():
                yield f"{repository.name(page)}: the link to {target} leads nowhere"


RULES: tuple[Rule, ...] = (
    no_path_of_a_machine,
    words_of_the_field,
    version_in_one_place,
    files_are_short,
    imports_run_one_way,
    commands_have_modules,
    documented_make_targets_exist,
    documented_scripts_exist,
    links_lead_somewhere,
)


def main(root: Path, rules: tuple[Rule, ...]) -> int:
    """Print what breaks a rule; the exit code."""
    repository = Repository(root)
    try:
        count = len(repository.files)
    except (OSError, subprocess.CalledProcessError):
        print("lint: not a git checkout, so the house rules are not checked", file=sys.stderr)
        return 0
    broken = [line for rule in rules for line in rule(repository)]
    for line in broken:
        print(line)
    print(f"lint: {len(rules)} house rules, {count} files: {len(broken)} violations")
    return 1 if broken else 0


if __name__ == "__main__":
    from scripts.lint_requirements import RULES as REQUIREMENT_RULES

    sys.exit(main(Path(__file__).parents[1], RULES + REQUIREMENT_RULES))
