import lmdb
import pytest

from storage.lmdb_pages import BadPages, check_pages, set_map_size


@pytest.fixture
def data(tmp_path):
    """A closed environment with values on tree pages and on pages of their own."""
    with lmdb.open(str(tmp_path), map_size=1 << 24, lock=False) as env, env.begin(write=True) as txn:
        for number in range(2000):
            txn.put(b"key%05d" % number, bytes(5000 if number % 50 == 0 else 40))
    return tmp_path / "data.mdb"


def edit(path, offset, change):
    content = bytearray(path.read_bytes())
    content[offset : offset + len(change)] = change
    path.write_bytes(content)


def test_sound_file_passes(data):
    check_pages(data)


def test_map_size_is_what_lmdb_reads(data):
    set_map_size(data, 4096, 12_345_344)
    check_pages(data)
    with lmdb.open(str(data.parent), map_size=0, readonly=True, lock=False) as env:
        assert env.info()["map_size"] == 12_345_344
        assert env.stat()["entries"] == 2000


def test_lmdb_agrees_on_the_pages_it_may_touch(data):
    with lmdb.open(str(data.parent), readonly=True, lock=False) as env:
        last_page = env.info()["last_pgno"]
    content = data.read_bytes()
    data.write_bytes(content[: (last_page + 1) * 4096 - 1])
    with pytest.raises(BadPages, match=f"its header claims {(last_page + 1) * 4096}"):
        check_pages(data)


@pytest.mark.parametrize("flags", [1, 2])
def test_damage_of_tree_pages_is_named(data, flags):
    content = data.read_bytes()
    pages = [n for n in range(2, len(content) // 4096) if content[4096 * n + 10 : 4096 * n + 12] == bytes([flags, 0])]
    page = next(n for n in pages if int.from_bytes(content[4096 * n : 4096 * n + 8], "little") == n)
    for offset, change in [(0, b"\xff" * 8), (12, b"\xff\xff"), (16, b"\xff\xff"), (10, b"\x04")]:
        data.write_bytes(content)
        edit(data, 4096 * page + offset, change)
        with pytest.raises(BadPages, match=f"page {page}"):
            check_pages(data)
