"Distil deep generative teachers into probabilistic circuits, measure honestly, and ask exact questions."
import ctypes, os, sys
from importlib import import_module
# Threads that spin for long while they wait stop each other on shared cores; threads that never spin are slow to wake,
# and a deep tree wakes them hundreds of times a step. So: spin for some microseconds, then sleep.
# Read when torch is first imported, so import pcdistill before it.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
os.environ.setdefault('GOMP_SPINCOUNT', '20000')

def keep_memory():
    """The process keeps what memory it had, in blocks of up to 1 GB, where the C library is GNU's. By itself it gives
    blocks of over 32 MB back whenever they are freed, and each new one costs a page fault every 4 kB: half of a training
    step with large tensors (nbs/25_em). Whoever sets MALLOC_… in the environment has said what is wanted."""
    if sys.platform!='linux' or any(name.startswith('MALLOC_') for name in os.environ): return
    libc, trim_threshold, mmap_threshold = ctypes.CDLL(None), -1, -3 # names and numbers of malloc.h
    if hasattr(libc, 'gnu_get_libc_version'):
        for of in (mmap_threshold, trim_threshold): libc.mallopt(of, 1 << 30)

keep_memory()

__version__ = '0.5.0'

# what a reader needs first → the module that has it, imported when it is first wanted
WHOLE = dict(recipe='recipes', distill='chain', load_run='chain', images='data', inpaint='inpainting', mask='inpainting',
             score='evaluate', bits='evaluate', encode='extra.compress', decode='extra.compress')

def __getattr__(name):
    if name not in WHOLE: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{WHOLE[name]}'), name)

def __dir__(): return [*globals(), *WHOLE]
