"""Use the networks in other programs: `pip install -e .`, then `from petseg import load_model, predict`.

The scripts' modules (utils, data, ...) are loaded as submodules of this package, so that they
do not collide with other programs' modules.
"""

import builtins
import importlib
import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

__all__ = ["ImageError", "UserError", "load_model", "predict"]
SCRIPTS = Path(__file__).resolve().parents[1]
NAMES = {path.stem for path in SCRIPTS.iterdir() if path.suffix == ".py" or path.is_dir()} - {"petseg", "predict"}


def import_module(name, globals=None, locals=None, fromlist=(), level=0):
    """Import like `__import__`, but the scripts' modules as submodules of this package."""
    if level or name.partition(".")[0] not in NAMES:
        return builtins.__import__(name, globals, locals, fromlist, level)
    module = importlib.import_module(f"{__name__}.{name}")
    for item in fromlist or ():
        if not hasattr(module, item):
            importlib.import_module(f"{__name__}.{name}.{item}")
    return module if fromlist else sys.modules[f"{__name__}.{name.partition('.')[0]}"]


class Loader(SourceFileLoader):
    def exec_module(self, module):
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": import_module}
        super().exec_module(module)


class Finder:
    """Finds petseg.NAME in the folder of the scripts."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        package, _, name = fullname.partition(".")
        if package != __name__ or name.partition(".")[0] not in NAMES:
            return None
        base = SCRIPTS.joinpath(*name.split("."))
        file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        return importlib.util.spec_from_file_location(fullname, file, loader=Loader(fullname, str(file)))


sys.meta_path.insert(0, Finder)


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"petseg has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.photos.prediction"), name)
