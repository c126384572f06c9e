import hashlib
import json
import math
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import keys

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_canonical_json_is_json_and_a_fixed_point(value):
    try:
        written = keys.canonical_json(value)
    except UnicodeEncodeError:
        return
    assert json.loads(written) == value
    assert keys.canonical_json(json.loads(written)) == written


def test_canonical_json_has_one_spelling():
    assert keys.canonical_json({"b": 1, "a": [1.5, None, True]}) == b'{"a":[1.5,null,true],"b":1}'
    assert keys.canonical_json({"x": (1, 2)}) == keys.canonical_json({"x": [1, 2]})
    assert keys.canonical_json("é") == '"é"'.encode()


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": [-math.inf]}])
def test_canonical_json_refuses_numbers_without_a_spelling(value):
    with pytest.raises(ValueError):
        keys.canonical_json(value)


@pytest.mark.parametrize("value", [{1: "a"}, {"a": {None: 1}}, [{True: 1}], Path("/x"), {"a": {1, 2}}, np.float32(1)])
def test_canonical_json_refuses_what_it_would_have_to_guess(value):
    with pytest.raises(TypeError):
        keys.canonical_json(value)


def test_canonical_json_refuses_broken_text():
    with pytest.raises(UnicodeEncodeError):
        keys.canonical_json("\udcff")


def test_sha256_file(tmp_path):
    data = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(data)
    assert keys.sha256_file(tmp_path / "a") == (hashlib.sha256(data).hexdigest(), len(data))
    assert keys.sha256_hex(data) == hashlib.sha256(data).hexdigest()


def test_object_key_depends_on_all_parts_and_on_no_order():
    base = keys.object_key("mel", 1, {"a": 1, "b": 2})
    assert base == keys.object_key("mel", 1, {"b": 2, "a": 1})
    others = [("mel", 2, {"a": 1, "b": 2}), ("f0", 1, {"a": 1, "b": 2}), ("mel", 1, {"a": 1, "b": 3}), ("mel", 1, {})]
    assert len({base, *(keys.object_key(*other) for other in others)}) == 5
    # pinned: a change of this value orphans every stored object
    assert keys.object_key("mel", 1, {}) == hashlib.sha256(b'{"inputs":{},"step":"mel","step_version":1}').hexdigest()


def test_library_versions():
    assert keys.library_versions(["numpy", "no-such-library"]) == {"no-such-library": "absent", "numpy": np.__version__}


def test_code_hash_follows_the_source_and_not_its_place(tmp_path):
    hashes = [keys.code_hash(_module(tmp_path / folder, text)) for folder, text in (("a", "1"), ("b", "1"), ("c", "2"))]
    assert hashes[0] == hashes[1] != hashes[2]


def test_code_hash_of_a_package_includes_its_modules(tmp_path):
    package = _module(tmp_path, "", "__init__.py")
    before = keys.code_hash(package)
    (tmp_path / "part.py").write_text("x = 1")
    assert keys.code_hash(package) != before


def _module(folder: Path, text: str, name: str = "step.py") -> types.ModuleType:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    module = types.ModuleType("step")
    module.__file__ = str(folder / name)
    return module
