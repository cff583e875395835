"""`python run.py completion`: a script that completes commands, presets, settings and their choices in bash.

    eval "$(python run.py completion)"

A line for ~/.bashrc; or write the script once to a file that it reads. It holds all names, so that TAB starts no Python; plugins'
are left out. `python` and `python3` are completed for a `run.py` of this program; for all else as they were before.
"""

from importlib import import_module
from pathlib import Path

from renaissance.core.console import say
from renaissance.settings.declared import SETTINGS, Setting, declared
from renaissance.settings.presets import presets

from .main import COMMANDS, SUBCOMMANDS, TRIALS


def main() -> None:
    """Prints the script."""
    own = {name: declared(import_module(module)) for name, module in SUBCOMMANDS.items()}
    runs = [name for name in COMMANDS if name not in own or name in TRIALS]
    words = [f"{'|'.join(runs)}) words='{' '.join([*presets(), *_keys(SETTINGS)])}' ;;"]
    words += [f"{name}) words+=' {' '.join(_keys(settings))}' ;;" for name, settings in own.items() if settings]
    values = [f"*:{key}) {_answer(each)} ;;" for key, each in SETTINGS.items() if _answer(each)]
    values += [
        f"{name}:{key}) {_answer(each)} ;;" for name, of in own.items() for key, each in of.items() if _answer(each)
    ]
    template = Path(__file__).with_name("completion.bash").read_text(encoding="utf-8")
    say(
        template.replace("@COMMANDS@", " ".join(COMMANDS))
        .replace("@RUNS@", words[0])
        .replace("@OWN@", "\n        ".join(words[1:]))
        .replace("@VALUES@", "\n        ".join([*values[::-1]]))
    )


def _keys(settings: dict[str, Setting]) -> list[str]:
    """`key=` of each setting, and `key.entry=` of those that have entries."""
    entries = [
        f"{key}.{name}=" for key, each in settings.items() if isinstance(each.default, dict) for name in each.default
    ]
    return [*(f"{key}=" for key in settings), *entries]


def _answer(setting: Setting) -> str:
    """What a shell makes of the value of a setting: choices, a path, or nothing."""
    return f"words='{' '.join(setting.check.choices)}'" if setting.check.choices else "path=1" * setting.check.is_path
