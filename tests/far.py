"""A device that is not there: tensors that say they are on it, compute on the CPU, and complain like a GPU.

Inside `far_away()` the device 'meta' has numbers. Torch refuses nothing on a CPU that it would refuse between
a CPU and a GPU; here every operation on tensors of two devices, every random number drawn with a generator of
the wrong one, and every view of such memory by numpy is an error. What makes the processor wait for the device
(a number read, a mask turned into places) or goes over the bus is counted, by the function that does it.
"""
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from unittest import mock
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, _get_current_dispatch_mode_stack, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
import pcdistill
from pcdistill import runs

FAR, HERE, aten = torch.device('meta'), Path(pcdistill.__file__).parent, torch.ops.aten
GENERATOR, SAFE_OPEN = torch.Generator, runs.safe_open

class Far(Tensor):
    "A tensor that says it is far away."
    @staticmethod
    def __new__(cls, near):
        return Tensor._make_wrapper_subclass(cls, near.shape, near.stride(), near.storage_offset(), dtype=near.dtype, device=FAR)
    def __init__(self, near): self.near = near
    def __repr__(self): return f'Far({self.near})'
    def tolist(self):
        counts().waits[f'{asker()} tolist'] += 1
        return self.near.tolist()
    def numpy(self, force=False):
        if not force: raise TypeError(f'no numpy of a tensor that is far away, in {asker()}')
        return self.near.numpy()
    def __getitem__(self, at): return super().__getitem__(placed(at))
    def __setitem__(self, at, value): super().__setitem__(placed(at), value)
    @classmethod
    def __torch_dispatch__(cls, f, types, args=(), kwargs=None): raise RuntimeError('wanted tensors of far away only in there')

class Generator(GENERATOR):
    "A CPU's generator that may say it is far away."
    def __new__(cls, device='cpu'): return super().__new__(cls, 'cpu')
    def __init__(self, device='cpu'): self.at = torch.device(device)
    @property
    def device(self): return self.at

class Opened:
    "A safetensors file, whose tensors are read without the modes in here: as always, on the CPU."
    def __init__(self, path, kind): self.file = SAFE_OPEN(path, kind)
    def __enter__(self): self.file.__enter__(); return self
    def __exit__(self, *e): return self.file.__exit__(*e)
    def __getattr__(self, name): return getattr(self.file, name)
    def get_tensor(self, k):
        with torch._C.DisableTorchFunction(), _disable_current_modes(): return self.file.get_tensor(k)

def counts(): return _get_current_dispatch_mode_stack()[-1]

def placed(at): # a list of places goes over the bus each time
    if isinstance(at, tuple): return tuple(map(placed, at))
    if not isinstance(at, list): return at
    counts().bus[asker()] += 1
    return Far(torch.tensor(at))

near = lambda t: t.near if isinstance(t, Far) else t
far = lambda t: Far(t) if isinstance(t, Tensor) and not isinstance(t, Far) else t
is_far = lambda device: device is not None and torch.device(device)==FAR

def asker() -> str:
    "The innermost function of the package that is at work."
    f = sys._getframe(1)
    while f and not (f.f_code.co_filename.startswith(str(HERE)) and f.f_code.co_name!='<lambda>'): f = f.f_back
    return f'{Path(f.f_code.co_filename).stem}.{f.f_code.co_name}' if f else 'test'

WAITS = {aten._local_scalar_dense, aten.nonzero, aten._unique2, aten._unique, aten.unique_dim, aten.unique_consecutive, aten.masked_select,
         aten.bincount, aten.equal, aten.multinomial, aten.repeat_interleave, aten.linalg_cholesky, aten.argwhere}

class Device(TorchDispatchMode):
    "Computes what is far away, and counts."
    def __init__(self): super().__init__(); self.waits, self.bus = Counter(), Counter()

    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, f.overloadpacket
        if not is_far(kwargs.get('device')) and not any(isinstance(t, Far) for t in tree_leaves((args, kwargs))): return f(*args, **kwargs)
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        there, made_at = [isinstance(t, Far) for t in given], kwargs.get('device')
        on = any(there) if made_at is None else is_far(made_at)
        if name is aten._local_scalar_dense: on = False
        crosses = name in (aten.copy_, aten._to_copy) and any(there)!=on or name is aten.copy_ and len(set(there)) > 1
        mixed = any(there) and any(t.dim() and not isinstance(t, Far) for t in given)
        by_place = name in (aten.index, aten.index_put, aten.index_put_)
        if crosses: self.bus[asker()] += 1
        elif mixed and not (by_place and isinstance(given[0], Far) and all(isinstance(t, Far) or t.dtype in (torch.bool, torch.long) for t in given)):
            raise RuntimeError(f'tensors on two devices for {f} in {asker()}: {[(tuple(t.shape), t.device.type) for t in given]}')
        elif mixed: self.bus[asker()] += 1
        mask = by_place and any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1])
        if any(there) and (name in WAITS or mask and not (name is not aten.index and args[2].numel()==1)): self.waits[f'{asker()} {name.__name__}'] += 1
        if made_at is not None: kwargs = kwargs | dict(device='cpu')
        out = f(*tree_map(near, args), **tree_map(near, kwargs))
        return return_and_correct_aliasing(f, args, kwargs, tree_map(far, out) if on else out)

class Asked(TorchFunctionMode):
    "What torch does not hand on to a dispatch mode."
    def __init__(self, device): super().__init__(); self.device = device
    def __torch_function__(self, f, types, args=(), kwargs=None):
        kwargs, gen = kwargs or {}, (kwargs or {}).get('generator')
        if gen is not None:
            at = kwargs.get('device') or next((t.device for t in args if isinstance(t, Tensor)), 'cpu')
            if is_far(at)!=is_far(gen.device): raise RuntimeError(f'generator on {gen.device} for numbers on {at} in {asker()}')
        if f in (torch.tensor, torch.as_tensor) and is_far(kwargs.get('device')):
            if f is torch.as_tensor and isinstance(args[0], Far): return args[0]
            self.device.bus[asker()] += 1
            return far(torch.as_tensor(near(args[0]), **kwargs | dict(device='cpu')).detach().clone())
        return f(*args, **kwargs)

@contextmanager
def far_away():
    "The device 'meta' has numbers in here; gives what counts."
    device, overwrite = Device(), 'torch.__future__.get_overwrite_module_params_on_conversion'
    with mock.patch(overwrite, lambda: True), mock.patch('torch.Generator', Generator), mock.patch.object(runs, 'safe_open', Opened), device, Asked(device):
        yield device
