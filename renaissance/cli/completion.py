"""`python run.py completion > ~/.renaissance.bash`: writes what completes commands, presets, settings and choices in bash.

Put `source ~/.renaissance.bash` into ~/.bashrc, or there `eval "$(python run.py completion)"` where the program lies. The script holds
all names, so TAB starts no Python; those of plugins are left out. It completes `python` and `python3` for a run.py of this program,
and leaves all else to what has completed them before.
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
