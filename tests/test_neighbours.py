"""The house is open: what stands in nbs/neighbours is built on public names of the kit, and the kit knows nothing of it.

That a method from elsewhere needs no change in the core is what each of those notebooks shows; here it is read from their code.
"""
import ast, importlib, json
import pytest, torch
import notebooks
from pcdistill.core import rng

root = notebooks.root
NEIGHBOURS = sorted((root/'nbs'/'neighbours').glob('*.ipynb'))
each = pytest.mark.parametrize('nb', NEIGHBOURS, ids=lambda p: p.stem)

def code(nb):
    "All code of a notebook, as Python reads it."
    cells = json.loads(nb.read_text(encoding='utf-8'))['cells']
    return '\n'.join(''.join(c['source']) for c in cells if c['cell_type']=='code')

def taken(text):
    "Module → names imported from it, of the package."
    found = {}
    for n in ast.walk(ast.parse(text)):
        if isinstance(n, ast.ImportFrom) and (n.module or '').split('.')[0]=='pcdistill': found.setdefault(n.module, []).extend(a.name for a in n.names)
        if isinstance(n, ast.Import): found |= {a.name: [] for a in n.names if a.name.split('.')[0]=='pcdistill'}
    return found

def not_public(text):
    "Names taken that no module offers."
    out = []
    for module, names in taken(text).items():
        offered = importlib.import_module(module)
        out += [f'{module}.{n}' for n in names if n not in getattr(offered, '__all__', ()) and not (module=='pcdistill' and hasattr(offered, n) and n[0]!='_')]
    return out

def reached_into(text):
    "Statements that change what was imported from the package: attributes set, methods added."
    names = {a.asname or a.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom) and (n.module or '').split('.')[0]=='pcdistill' for a in n.names}
    out = []
    for n in ast.walk(ast.parse(text)):
        targets = n.targets if isinstance(n, ast.Assign) else [n.target] if isinstance(n, ast.AugAssign) else []
        out += [ast.unparse(t) for t in targets if isinstance(t, ast.Attribute) and isinstance(t.value, ast.Name) and t.value.id in names]
        if isinstance(n, ast.FunctionDef) and any('patch' in ast.unparse(d) for d in n.decorator_list): out.append(n.name)
    return out

@each
def test_takes_public_names_only(nb):
    assert taken(code(nb)), 'built on the kit'
    assert not not_public(code(nb)), not_public(code(nb))

@each
def test_changes_nothing_of_the_kit_and_exports_nothing(nb):
    assert not reached_into(code(nb)), reached_into(code(nb))
    assert not [line for line in code(nb).splitlines() if line.startswith('#|') and 'export' in line]

@each
def test_the_index_has_it_and_it_asserts(nb):
    assert f'neighbours/{nb.name}' in (root/'nbs'/'index.ipynb').read_text(encoding='utf-8')
    assert any(isinstance(n, ast.Assert) for n in ast.walk(ast.parse(code(nb))))

def test_the_kit_knows_nothing_of_it():
    modules = sorted((root/'pcdistill').rglob('*.py'))
    assert modules and not [p.name for p in modules if 'neighbours' in ' '.join(notebooks.imported(p.read_text(encoding='utf-8'), 'x'))]
    assert not (root/'pcdistill'/'neighbours').exists()

def test_the_script_of_the_longer_runs_finds_its_functions_in_the_notebook(monkeypatch):
    monkeypatch.syspath_prepend(root/'benchmarks')
    from cells import NEIGHBOURS, definitions
    nb = definitions(NEIGHBOURS/'N1_text.ipynb')
    c = nb.corpus(list('abcab'*400), d=4, block=2, least=1)
    assert len(c.values)==4 and c.train.shape==(400, 4) and len(c.valid)==len(c.test)==50
    pc = nb.started('random', c, 3, 0)
    told = nb.fine_tuned(pc, c, 1, rng(0))
    assert told[1] < told[0] and nb.doubled(pc, rng(1)).n_states==6 and abs(nb.bits(nb.stretched(pc, 4), c.test) - nb.bits(pc, c.test)) < 1e-6

def test_the_script_of_returns_finds_its_functions_in_the_notebook(monkeypatch):
    monkeypatch.syspath_prepend(root/'benchmarks')
    from cells import NEIGHBOURS, definitions
    n5 = definitions(NEIGHBOURS/'N5_returns.ipynb')
    w, *_ = n5.WORLDS['lake']
    assert len(n5.WORLDS)==4 and 0 < float(n5.judge(w, torch.full((1, 16, 4), 1/4))) < n5.optimum(w)[0]==1

def test_what_is_looked_for_is_found():
    bad = 'from pcdistill.circuit import Circuit, _Pass\nCircuit.forward = None\n@patch\ndef f(self:Circuit): pass'
    assert not_public(bad)==['pcdistill.circuit._Pass'] and reached_into(bad)==['Circuit.forward', 'f']
    good = 'from pcdistill.circuit import Circuit\nfrom pcdistill import distill\npc = Circuit()\npc.x = 1'
    assert not_public(good)==[] and reached_into(good)==[]
