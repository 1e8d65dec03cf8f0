"""The files of a tar of any origin, one after the other, in bounded memory."""

import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Any

MAX_TEXT_BYTES = 4 * 2**20
MAX_FILE_BYTES = 128 * 2**20
_MAX_HEADER_BYTES = 2**20
_TEXTS = (".txt", ".json")
_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK)  # fmt: skip


class CheckedTarInfo(tarfile.TarInfo):
    """Makes tarfile raise ReadError if an archive is cut off or has an invalid or huge header.

    tarfile takes the first two for the end, but a complete archive ends with blocks of zeros. A
    header that continues in blocks of its own, for a long name, is read whole.
    """

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "CheckedTarInfo":
        """The next header; see the class."""
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"not whole: {error} at byte {tar.offset}") from error

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type in _HEADERS and self.size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes at byte {tar.offset}")
        return super()._proc_member(tar)  # type: ignore[misc]


def files_of_tar(
    stream: IO[bytes], skip: Callable[[str], None]
) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The regular files of a tar, compressed or not, in order. Nothing is written to the disk.

    Links, devices and files over the limits are skipped: `MAX_TEXT_BYTES` for .txt and .json, and
    `MAX_FILE_BYTES`, both unpacked.

    Args:
        stream: the tar; it need not be seekable.
        skip: called with a sentence for each skipped member.

    Raises:
        tarfile.TarError, OSError, EOFError, ...: the archive is damaged, from here on.
    """
    with tarfile.open(fileobj=stream, mode="r|*", tarinfo=CheckedTarInfo) as tar:
        for member in tar:
            limit = MAX_TEXT_BYTES if member.name.lower().endswith(_TEXTS) else MAX_FILE_BYTES
            if not member.isfile():
                if not member.isdir():
                    skip(f"{member.name} is a link or a device, not a file")
            elif member.size > limit:
                skip(f"{member.name} has {member.size:,} bytes; the limit is {limit:,}")
            else:
                file = tar.extractfile(member)
                yield member, file.read() if file else b""
            tar.members = []  # type: ignore[attr-defined] # free memory
