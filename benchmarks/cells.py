"""What a notebook defines and does not export: read from its cells, for scripts and tests."""
import ast, json
from pathlib import Path
from types import SimpleNamespace

NBS = Path(__file__).parents[1]/'nbs'
KEPT = ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef

def kept(node) -> bool:
    "Whether a statement defines something; of assignments, those of capital constants do."
    if not isinstance(node, ast.Assign):
        return isinstance(node, KEPT)
    names = (n for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name))
    return all(n.id.isupper() for n in names)

def definitions(notebook:Path) -> SimpleNamespace:
    "What a notebook defines, imports and capital constants too; nothing else of it is run."
    space = {'__name__': notebook.stem}
    for cell in json.loads(notebook.read_text(encoding='utf-8'))['cells']:
        if cell['cell_type']=='code':
            tree = ast.parse(''.join(cell['source']))
            tree.body = [n for n in tree.body if kept(n)]
            exec(compile(tree, notebook.name, 'exec'), space)
    return SimpleNamespace(**space)
