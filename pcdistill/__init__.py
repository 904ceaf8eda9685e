"Distil deep generative teachers into probabilistic circuits, measure honestly, and ask exact questions."
import os, sys
from importlib import import_module
from types import ModuleType
# Threads that spin for long while they wait stop each other on shared cores; threads that never spin are slow to wake,
# and a deep tree wakes them hundreds of times a step. So: spin for some microseconds, then sleep.
# Read when torch is first imported, so import pcdistill before it.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
os.environ.setdefault('GOMP_SPINCOUNT', '20000')

__version__ = '0.5.0'

# name → module that has it, imported when the name is first wanted
WHOLE = dict(recipe='recipe', distill='chain', load_run='chain', images='data', inpaint='inpaint', mask='inpaint',
             score='evaluate', bits='evaluate', encode='compress', decode='compress')

class Package(ModuleType):
    "The package; `recipe` and `inpaint` are the functions, whichever module of that name was imported before."
    def __getattribute__(self, name:str):
        if name in WHOLE:
            return getattr(import_module(f'{__name__}.{WHOLE[name]}'), name)
        return super().__getattribute__(name)

    def __dir__(self):
        return [*super().__dir__(), *WHOLE]

sys.modules[__name__].__class__ = Package
