import pickle

import pytest

from storage.errors import OutOfSpace, Reason, Rejected, error_text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(13, "Permission denied", "/data/raw/a.mp4"), "PermissionError: Permission denied"),
        (RuntimeError("cannot read /data/raw/a b.mp4"), "RuntimeError: cannot read ...a b.mp4"),
        (RuntimeError("worker tcp://127.0.0.1:4711 died\nsecond line"), "RuntimeError: worker ... died"),
        (RuntimeError("task cut-3f2a9c41-77aa-4b1c-9d10-aabbccddeeff failed"), "RuntimeError: task cut-... failed"),
        (ValueError("expected 3/4 of it"), "ValueError: expected 3/4 of it"),
        (ValueError(), "ValueError: "),
    ],
)
def test_stored_errors_say_what_not_where(error, text):
    assert error_text(error) == text


@pytest.mark.parametrize("error", [Rejected(Reason.NO_FACE, "none"), OutOfSpace("full")])
def test_errors_travel_between_processes(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (type(error), str(error))
