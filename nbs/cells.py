"""What a notebook defines and does not export: read from its cells, for other notebooks, scripts and tests."""
import ast, json, re
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

NBS = Path(__file__).parent
NEIGHBOURS, EXTRA = NBS/'neighbours', NBS/'extra'
KEPT = ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef

def kept(node) -> bool:
    """Whether a statement defines: of assignments, those of capital names, those into registries, and what
    is taken from another notebook."""
    if not isinstance(node, ast.Assign):
        return isinstance(node, KEPT)
    if ast.unparse(node.value).startswith('definitions('):
        return True
    names = (n for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name))
    return all(n.id.isupper() for n in names)

@cache
def definitions(notebook:Path) -> SimpleNamespace:
    """What a notebook defines, imports and capital constants too; nothing else of it is run. What it
    exports comes from the package. Read once: whoever asks again has the same classes."""
    space = {'__name__': notebook.stem}
    for cell in json.loads(notebook.read_text(encoding='utf-8'))['cells']:
        text = ''.join(cell['source'])
        if exports := re.match(r'#\| default_exp (\S+)', text):
            module = vars(import_module(f'pcdistill.{exports[1]}'))
            space |= {name: v for name, v in module.items() if not name.startswith('__')}
        elif cell['cell_type']=='code' and not text.startswith('#| export'):
            tree = ast.parse(text)
            tree.body = [n for n in tree.body if kept(n)]
            exec(compile(tree, notebook.name, 'exec'), space)
    return SimpleNamespace(**space)
