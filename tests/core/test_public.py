"""What goes out to others names no folders of this disk."""

import pytest

from renaissance.core.public import public, public_command


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("google/electra-small", "google/electra-small"),
        (["/a/b/c", "~/d/e", "coco"], ["c", "e", "coco"]),
        ("https://a.b/c/d", "https://a.b/c/d"),
        ("/home/me/My Docs/x.ckpt", "x.ckpt"),
        ({"a": "/home/x/y"}, {"a": "y"}),
        (3, 3),
    ],
)  # fmt: skip
def test_absolute_paths_lose_their_folders(given, wanted):
    assert public(given) == wanted


def test_a_command_loses_them_too():
    command = (
        "run.py with encoder=/home/me/vit data_root='/data/all/arrow' datasets=['/a/b', 'models/c'] x=s3://a/b y=a/b"
    )
    wanted = "run.py with encoder=vit data_root='arrow' datasets=['b', 'models/c'] x=s3://a/b y=a/b"
    assert public_command(command) == wanted
