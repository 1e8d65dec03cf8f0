"""Each house rule finds violations, in a synthetic repository."""

import subprocess

import pytest

from scripts import lint, lint_requirements

SETUP = """
[metadata]
version = attr: detclip2.__version__
classifiers =
    Programming Language :: Python :: 3.10
    Programming Language :: Python :: 3.11
    Programming Language :: Python :: 3.12
    Programming Language :: Python :: 3.13
[options]
python_requires = >=3.10,<3.14
install_requires =
    numpy>=2,<3
[options.extras_require]
test =
    pytest>=8,<10
    ruff==0.17.6
    mypy==2.4.1
"""
SOUND = {
    "detclip2/__init__.py": '__version__ = "7.8.9"\n',
    "detclip2/cli.py": 'import numpy\nCOMMANDS = {\n    "check-env": "look",\n}\n',
    "detclip2/commands/check_env.py": "\ndef run(arguments):\n    pass\n",
    "detclip2/commands/shared.py": "X = 1\n",
    "tests/test_a.py": "import pytest\nimport detclip2\n",
    "scripts/setup.sh": "python -c '(3, 10) <= sys.version_info < (3, 14)'\n",
    "setup.cfg": SETUP,
    "pyproject.toml": '[tool.ruff]\ntarget-version = "py310"\n',
    "requirements.lock": "numpy==2.1\npytest==9.2.0\nruff==0.17.6\nmypy==2.4.1\n",
    "Makefile": "demo:\n\techo\nquick:\n\techo\ntest:\n\techo\n",
    "CHANGELOG.md": "## 7.8.9 (2026)\n",
    "README.md": "Run `make demo`, `make quick`, `make test`; see [more](docs/a.md).\n",
    "docs/a.md": "```sh\nbash scripts/setup.sh\n```\n",
}
RULES = {rule.__name__: rule for rule in lint.RULES + lint_requirements.RULES}


@pytest.fixture
def repository(tmp_path):
    """A repository without violations; calling it with files changes them."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)

    def write(**files):
        for name, text in {**SOUND, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return lint.Repository(tmp_path)

    return write


@pytest.mark.parametrize("rule", RULES)
def test_a_sound_repository_breaks_no_rule(repository, rule):
    assert not list(RULES[rule](repository()))


@pytest.mark.parametrize(
    ("rule", "name", "text", "sentence"),
    [
        ("no_path_of_a_machine", "docs/a.md", "cd /h|ome/ann/x", "docs/a.md: names"),
        ("no_path_of_a_machine", "a.toml", "--i|ndex-url x", "a.toml: names"),
        ("no_path_of_a_machine", "detclip2/a.txt", "/r|oot/x", "detclip2/a.txt: names"),
        (
            "words_of_the_field",
            "docs/a.md",
            "x\nLearnt b|y heart",
            "docs/a.md:2: for 'b|y heart', write",
        ),
        ("words_of_the_field", "detclip2/a.py", "# names to|ld apart", "write 'distinguish'"),
        ("words_of_the_field", "README.md", "Empty boxes are le|ft out", "write 'skip'"),
        ("words_of_the_field", "detclip2/a.py", "# to be me|nded", "write 'fix'"),
        ("words_of_the_field", "scripts/setup.sh", "# a user is to|ld", "write 'report'"),
        ("words_of_the_field", "tests/a.py", "# made-|up names", "write 'synthetic'"),
        ("version_in_one_place", "a.toml", "version = '7.8.9'", "repeats the version 7.8.9"),
        ("version_in_one_place", "CHANGELOG.md", "## 0.0.9\n", "no heading of version 7.8.9"),
        ("files_are_short", "detclip2/a.py", "x = 1\n" * 401, "has 401 lines, at most 400"),
        ("files_are_short", "projects/A/configs/b/a.py", "x = 1\n" * 51, "at most 50"),
        ("files_are_short", "projects/A/train_net.py", "x = 1\n" * 201, "at most 200"),
        (
            *("imports_run_one_way", "detclip2/modeling/deep/a.py"),
            *("from detclip2.data.sample import x", "modeling may not import detclip2.data.sample"),
        ),
        ("imports_run_one_way", "detclip2/data/a.py", "import detclip2.engine", "may not import"),
        ("imports_run_one_way", "detclip2/data/a.py", "from detclip2 import engine", "not import"),
        ("commands_have_modules", "detclip2/commands/new.py", "\ndef run():\n", "no command"),
        ("commands_have_modules", "detclip2/commands/check_env.py", "", "check_env.py: has no mod"),
        ("commands_have_modules", "detclip2/cli.py", "", "cannot be read"),
        ("documented_make_targets_exist", "docs/a.md", "    make tea\n", "no target 'tea'"),
        ("documented_make_targets_exist", "README.md", "`make demo` `make test`", "make quick"),
        ("documented_scripts_exist", "docs/a.md", "`python scripts/no.py`", "scripts/no.py"),
        ("links_lead_somewhere", "README.md", "[more](docs/b.md)", "docs/b.md leads nowhere"),
        ("imports_are_declared", "detclip2/a.py", "import pytest", "detclip2/a.py: imports pytest"),
        ("imports_are_declared", "tests/a.py", "from cv2 import x", "imports opencv-python-head"),
        ("declared_is_imported", "tests/test_a.py", "import numpy", "declares pytest, which"),
        ("ranges_have_an_upper_bound", "setup.cfg", SETUP.replace(",<3\n", "\n"), "numpy>=2 has"),
        ("lock_fits_the_ranges", "requirements.lock", "numpy==2.1\n", "pytest is missing"),
        (
            *("lock_fits_the_ranges", "requirements.lock"),
            *(SOUND["requirements.lock"].replace("2.1", "3.1"), "has numpy 3.1, setup.cfg wants"),
        ),
        (
            *("lock_fits_the_ranges", "requirements.lock"),
            *(SOUND["requirements.lock"] + "numpy==2.2\n", "numpy is pinned twice"),
        ),
        (
            *("lock_fits_the_ranges", "requirements.lock"),
            *(SOUND["requirements.lock"] + "opencv-python==4.1\n", "overwrite the headless"),
        ),
        ("supported_pythons_agree", "scripts/setup.sh", "", "scripts/setup.sh: does not check"),
        ("supported_pythons_agree", "pyproject.toml", "", "ruff's target-version"),
        ("supported_pythons_agree", "setup.cfg", SETUP.replace(":: 3.11", ":: 3.9"), "classifiers"),
        ("supported_pythons_agree", "setup.cfg", SETUP.replace("<3.14", "<4"), "python_requires"),
        ("supported_pythons_agree", "setup.cfg", SETUP.replace("attr:", ""), "is not read from"),
        ("lint_pins_agree", "docs/a.md", "ruff =|=0.1.2", "ruff: has 2 pins"),
    ],
)
def test_a_broken_rule_is_named_with_its_file(repository, rule, name, text, sentence):
    # The bar keeps these texts from breaking the rules here.
    found = list(RULES[rule](repository(**{name: text.replace("|", "")})))
    assert any(sentence.replace("|", "") in line for line in found), found


@pytest.mark.parametrize("text", ["/home/user/images", "/home/you", "/Users/you/x"])
def test_an_example_of_a_home_folder_is_allowed(repository, text):
    assert not list(lint.no_path_of_a_machine(repository(**{"docs/a.md": text})))


def test_the_exit_code(repository, tmp_path, capsys):
    repository(**{"detclip2/a.py": "x = 1\n" * 401})
    assert lint.main(tmp_path, lint.RULES) == 1
    assert "detclip2/a.py: has 401 lines" in capsys.readouterr().out
    (tmp_path / "detclip2" / "a.py").unlink()
    assert lint.main(tmp_path, lint.RULES) == 0


def test_files_that_git_ignores_are_not_checked(repository):
    files = {".gitignore": "output/\n", "output/a.py": "x = 1\n" * 401}
    assert not list(lint.files_are_short(repository(**files)))


def test_without_git_nothing_is_checked(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert lint.main(tmp_path, lint.RULES) == 0
    assert "not a git checkout" in capsys.readouterr().err
