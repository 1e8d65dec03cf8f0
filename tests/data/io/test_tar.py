"""Tars of any origin: links, devices, and members that unpack to more than there is memory for."""

import gzip
import io
import tarfile

import pytest

from detclip2.data.io import tar
from detclip2.data.io.shard_stream import ImageTextStream
from detclip2.data.io.tar import files_of_tar


def member(name, data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def archive(*members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as writer:
        for info, data in members:
            writer.addfile(info, io.BytesIO(data))
    return file.getvalue()


def read(data):
    skipped = []
    found = [(m.name, content) for m, content in files_of_tar(io.BytesIO(data), skipped.append)]
    return found, skipped


def sparse(name, size):
    """A member of GNU's sparse format, 512 bytes long, which unpacks to `size` zeros."""
    info = tarfile.TarInfo(name)
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398], header[398:410] = b"00000000000\0", b"00000001000\0"
    header[483:495] = f"{size:011o}".encode() + b"\0"
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header[:512]):06o}".encode() + b"\0 "
    return bytes(header) + b"x" * 512


@pytest.mark.parametrize(
    "fields",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.SYMTYPE, "linkname": "a.jpg"},
        {"type": tarfile.LNKTYPE, "linkname": "../../secret.jpg"},
        {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5},
        {"type": tarfile.BLKTYPE},
        {"type": tarfile.FIFOTYPE},
    ],
    ids=["absolute link", "link", "hard link", "character device", "block device", "fifo"],
)
def test_what_is_no_file_is_skipped_and_the_rest_is_read(fields):
    data = archive(
        member("a.jpg", b"1"), member("b.jpg", **fields), member("c", type=tarfile.DIRTYPE),
        member("c.txt", b"2"),
    )  # fmt: skip
    found, skipped = read(data)
    assert found == [("a.jpg", b"1"), ("c.txt", b"2")]
    assert skipped == ["b.jpg is a link or a device, not a file"]


@pytest.mark.parametrize("name", ["/etc/passwd.jpg", "../../a.jpg"])
def test_names_are_keys_and_no_paths(tmp_path, name):
    path = tmp_path / "a.tar"
    path.write_bytes(archive(member(name, b"1"), member(name.replace("jpg", "txt"), b"a dog")))
    (record,) = ImageTextStream(str(path))
    assert record["image_bytes"] == b"1"
    assert record["file_name"] == f"{path}/{name.removesuffix('.jpg')}"


@pytest.mark.parametrize("name", ["huge.jpg", "huge.json", "huge.TXT"])
def test_members_over_the_limit_are_skipped(monkeypatch, name):
    monkeypatch.setattr(tar, "MAX_FILE_BYTES", 100_000)
    monkeypatch.setattr(tar, "MAX_TEXT_BYTES", 100_000)
    bomb = gzip.compress(archive(member(name, bytes(1_000_000)), member("b.jpg", b"2")))
    assert len(bomb) < 2000
    found, skipped = read(bomb)
    assert found == [("b.jpg", b"2")]
    assert skipped == [f"{name} has 1,000,000 bytes; the limit is 100,000"]


def test_sparse_members_count_with_their_unpacked_size():
    data = sparse("bomb.jpg", 7 * 2**30) + archive(member("b.jpg", b"2"))
    found, skipped = read(data)
    assert found == [("b.jpg", b"2")]
    assert skipped == ["bomb.jpg has 7,516,192,768 bytes; the limit is 134,217,728"]
    (small, _), (small_skipped) = read(sparse("small.jpg", 1024) + archive(member("b.jpg", b"2")))
    assert small == ("small.jpg", b"x" * 512 + bytes(512))
    assert not small_skipped


def test_a_member_that_claims_more_than_there_is_ends_the_archive():
    info, _ = member("a.jpg")
    info.size = 2**20
    with pytest.raises(tarfile.ReadError, match="unexpected end of data"):
        read(info.tobuf() + b"1" * 512)


@pytest.mark.parametrize(
    "kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK]
)
def test_huge_headers_are_refused_before_they_are_read(kind):
    info = tarfile.TarInfo("pax")
    info.type, info.size = kind, 2**33
    with pytest.raises(tarfile.ReadError, match=r"a header of 8,589,934,592 bytes"):
        read(info.tobuf(tarfile.GNU_FORMAT))


def test_a_long_name_is_read():
    name = "folder/" * 40 + "a.jpg"
    assert read(archive(member(name, b"1"))) == ([(name, b"1")], [])


def test_skipped_members_are_counted_and_deep_json_too(tmp_path):
    path = tmp_path / "a.tar"
    deep = b"[" * 100_000
    link = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
    path.write_bytes(
        archive(
            member("a.jpg", b"1"), member("a.txt", **link),
            member("b.jpg", b"2"), member("b.json", deep),
            member("c.jpg", b"3"), member("c.txt", b"c"), member("c.phrases.json", deep),
            member("d.jpg", b"4"), member("d.txt", b"d"),
        )
    )  # fmt: skip
    source = ImageTextStream(str(path))
    assert [record["caption"] for record in source] == [b"d"]
    assert source.counter.counts() == {"member-unusable": 1, "record-malformed": 3}
