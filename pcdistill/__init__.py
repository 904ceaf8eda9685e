"Distil deep generative teachers into probabilistic circuits, measure honestly, and ask exact questions."
import os
# Threads that spin for long while they wait stop each other on shared cores; threads that never spin are slow to wake, and a deep tree wakes them
# hundreds of times a step. So: spin for some microseconds, then sleep. Read when torch is first imported, so import pcdistill before it.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive'); os.environ.setdefault('GOMP_SPINCOUNT', '20000')

__version__ = '0.1.0'
