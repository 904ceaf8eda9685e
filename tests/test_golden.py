"The same numbers as before: what the stored parameters of tiny circuits of every family say, to 1e-5 bits."
import importlib.util, json
from pathlib import Path
import numpy as np, pytest, torch
from pcdistill.joint import load_joint

FOLDER = Path(__file__).parent/'golden'
spec = importlib.util.spec_from_file_location('golden_make', FOLDER/'make.py')
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)

def same(name, got, want, where=''):
    "Bits to 1e-5, nats and means to 1e-3; counts of bytes and sums of pixels exactly."
    assert type(got) is type(want) and (not isinstance(want, dict) or set(got)==set(want)), f'{name}{where}'
    if isinstance(want, dict):
        for k in want:
            same(name, got[k], want[k], f'{where}.{k}')
    elif isinstance(want, list):
        eps = 1e-5 if 'bits' in where else 1e-3
        assert len(got)==len(want)
        worst = np.abs(np.array(got) - np.array(want)).max()
        assert worst <= eps, f'{name}{where} is off by {worst}'
    else: assert got==want, f'{name}{where}: {got} instead of {want}'

@pytest.mark.parametrize('name', make.CASES)
def test_the_same_parameters_say_the_same(name):
    held = json.loads((FOLDER/f'{name}.json').read_text())
    joint = load_joint(FOLDER/f'{name}.safetensors')
    same(name, make.answers(joint, name, torch.tensor(held['labels_of_test'])), held['from_parameters'])
