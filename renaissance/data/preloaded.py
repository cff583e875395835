"""What the fork server of loader processes imports, once for all of them."""

from renaissance.core.launch import lasting_imports

with lasting_imports():
    from . import collate  # noqa: F401
