"Distil deep generative teachers into probabilistic circuits, measure honestly, and ask exact questions."
import os
os.environ.setdefault('OMP_WAIT_POLICY', 'passive') # threads that spin while they wait stop each other on shared cores; read when torch is first imported

__version__ = '0.1.0'
