"Shape annotations are checked while the tests run; nothing is looked for on the network."
import os
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ.setdefault('MPLBACKEND', 'agg')
DATA = os.environ.pop('PCDISTILL_DATA', None) # for a test that asks for it

from jaxtyping import install_import_hook
install_import_hook('pcdistill', 'beartype.beartype')   # before anything imports pcdistill

import pytest, torch
from pcdistill.core import Refused

torch.set_num_threads(1) # already for fixtures of modules, which run before those of a test

@pytest.fixture(autouse=True)
def one_thread():
    "Small tensors: more threads only wait for each other."
    torch.set_num_threads(1)

@pytest.fixture
def refuses():
    "refuses(f, 'word', …): f() raises Refused with one sentence that contains the words."
    def check(f, *words):
        with pytest.raises(Refused) as e: f()
        said = str(e.value)
        del e   # else its frames, and what they hold open, wait for the collector
        assert '\n' not in said and all(w in said for w in words), said
        return said
    return check
