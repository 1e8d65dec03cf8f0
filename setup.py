"""What setup.cfg cannot say: the folders of the repository that the wheel carries inside detclip2.

They stay where they are in a checkout, and detclip2/utils/repository.py finds them in both places.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# The benchmark of projects/EmojiScenes runs from a checkout alone.
CARRIED = (
    "compat/detectron2",
    "configs",
    "projects/DetCLIPv2/configs",
    "projects/GLIPv2/configs",
)


class BuildWithFolders(build_py):
    """Copies the modules of the package and, unless the install is editable, the folders."""

    def run(self):
        """Build, then copy."""
        super().run()
        if self.editable_mode:
            return
        for folder in CARRIED:
            files = sorted((ROOT / folder).rglob("*.py"))
            assert files, f"{folder} is missing: the source tree is not complete"
            for file in files:
                target = Path(self.build_lib, "detclip2", file.relative_to(ROOT))
                self.mkpath(str(target.parent))
                self.copy_file(str(file), str(target))


setup(cmdclass={"build_py": BuildWithFolders})
