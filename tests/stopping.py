"A run that is killed again and again, and goes on each time."
import contextlib, itertools
from types import SimpleNamespace
from unittest import mock
from pcdistill import chain, runs

class Stopped(Exception): pass

def then_stops(f):
    def g(*args, **kwargs):
        f(*args, **kwargs)
        raise Stopped
    return g

@contextlib.contextmanager
def stopped():
    "In here all is over as soon as a checkpoint or a stage is saved; a loop saves after each epoch."
    clock = SimpleNamespace(monotonic=itertools.count(step=1000.).__next__)
    with mock.patch.object(runs, 'save', then_stops(runs.save)), mock.patch.object(chain, 'save', then_stops(chain.save)), mock.patch.object(runs, 'time', clock): yield

def in_slices(f):
    "What f() gives at last, and how often it was stopped."
    for n in range(200):
        with contextlib.suppress(Stopped), stopped(): return f(), n
    raise AssertionError('no end')
