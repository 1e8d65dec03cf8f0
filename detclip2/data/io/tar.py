"""The files of a tar of any origin, one after the other, in bounded memory."""

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Any

BLOCK = 512
"""Bytes; members of a tar begin and end at multiples of it."""
MAX_TEXT_BYTES = 4 * 2**20
MAX_FILE_BYTES = 128 * 2**20
_MAX_HEADER_BYTES = 2**20
_TEXTS = (".txt", ".json")
_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK)  # fmt: skip
_END = bytes(2 * BLOCK)  # of a tar
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


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
        if self.size < 0:  # would be read again and again
            raise tarfile.ReadError(f"a size of {self.size} bytes at byte {tar.offset}")
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
        for member in _regular_files(tar, skip):
            file = tar.extractfile(member)
            yield member, file.read() if file else b""


def ranges_of_tar(
    path: str, skip: Callable[[str], None]
) -> Iterator[tuple[tarfile.TarInfo, range]]:
    """The same files of a tar on the disk, each with the bytes that its header and content take.

    Contents are not read. `files_in_memory` reads the bytes of any of them, joined.

    Args:
        path: a tar that is not compressed.
        skip: called with a sentence for each skipped member.

    Raises:
        tarfile.TarError, OSError, EOFError, ...: the archive is damaged, from here on.
    """
    length = os.path.getsize(path)
    with tarfile.open(path, "r:", tarinfo=CheckedTarInfo) as tar:
        for member in _regular_files(tar, skip):
            end: int = tar.offset  # type: ignore[attr-defined]
            # The last block may be cut where only its padding is.
            if (end if member.issparse() else member.offset_data + member.size) > length:
                raise tarfile.ReadError("unexpected end of data")
            yield member, range(member.offset, end)


def files_in_memory(
    content: bytes, skip: Callable[[str], None]
) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The same files of joined ranges of `ranges_of_tar`, faster.

    Args:
        content: their bytes.
        skip: called with a sentence for each skipped member.

    Raises:
        tarfile.TarError, OSError, EOFError, ...: they are something else, from here on.
    """
    begin = 0
    while begin < len(content):
        header = content[begin : begin + BLOCK]
        member = tarfile.TarInfo.frombuf(header, tarfile.ENCODING, "surrogateescape")
        is_plain = member.isfile() and not member.issparse() and member.size >= 0
        if not is_plain:  # such as the header of a long name
            yield from files_of_tar(io.BytesIO(content[begin:] + _END), skip)
            return
        begin += BLOCK
        end = begin + member.size
        yield member, content[begin:end]
        begin = end + -end % BLOCK


def _regular_files(tar: tarfile.TarFile, skip: Callable[[str], None]) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        limit = MAX_TEXT_BYTES if member.name.lower().endswith(_TEXTS) else MAX_FILE_BYTES
        if not member.isfile():
            if not member.isdir():
                skip(f"{member.name} is a link or a device, not a file")
        elif member.size > limit:
            skip(f"{member.name} has {member.size:,} bytes; the limit is {limit:,}")
        else:
            yield member
        tar.members = []  # type: ignore[attr-defined] # free memory


def is_compressed(path: str) -> bool:
    """Whether a file begins as one of gzip, bzip2, xz or zstandard.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return file.read(6).startswith(_COMPRESSED)
