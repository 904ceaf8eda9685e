"Distil deep generative teachers into probabilistic circuits, measure honestly, and ask exact questions."
import os
from importlib import import_module
# Threads that spin for long while they wait stop each other on shared cores; threads that never spin are slow to wake,
# and a deep tree wakes them hundreds of times a step. So: spin for some microseconds, then sleep.
# Read when torch is first imported, so import pcdistill before it.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
os.environ.setdefault('GOMP_SPINCOUNT', '20000')

__version__ = '0.5.0'

# what a reader needs first → the module that has it, imported when it is first wanted
WHOLE = dict(recipe='recipes', distill='chain', load_run='chain', images='data', inpaint='inpainting', mask='inpainting',
             score='evaluate', bits='evaluate', encode='compress', decode='compress')

def __getattr__(name):
    if name not in WHOLE: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{WHOLE[name]}'), name)

def __dir__(): return [*globals(), *WHOLE]
