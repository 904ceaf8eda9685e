"""Write the pages of the documentation as Markdown: notebooks, the package's names, and docs/*.md.

    python docs/pages.py OUT     # OUT/pages/**.md and OUT/mkdocs.yml, which zensical builds

Nothing is run and nothing is imported from the package: notebooks are shown with the outputs
that they store, names as they stand in the source. Formulas become MathML, so pages need no
script and no font from elsewhere. What prose calls by name becomes a link.
"""
import ast, base64, contextlib, functools, json, posixpath, re, shutil, sys, unicodedata
from collections import Counter
from pathlib import Path
from typing import NamedTuple

root = Path(__file__).resolve().parent.parent

# --- what there is

@functools.cache
def notebooks() -> list[Path]:
    "All notebooks, in reading order."
    found = sorted((root/'nbs').rglob('*.ipynb'))
    return [p for p in found if not any(s[0] in '._' for s in p.relative_to(root).parts)]

def called(nb:Path) -> str:
    "How prose calls a notebook: by name, with its folder, without the digits that sort it."
    at = nb.relative_to(root/'nbs').with_suffix('')
    return at.as_posix() if len(at.parts) > 1 else re.sub(r'^\d\d_', '', at.name)

@functools.cache
def cells(nb:Path) -> list[dict]:
    return json.loads(nb.read_text(encoding='utf-8'))['cells']

def source(cell:dict) -> str: return ''.join(cell['source'])

@functools.cache
def module_of(nb:Path) -> str|None:
    "The module that a notebook exports."
    found = re.search(r'^#\| default_exp (\S+)', '\n'.join(map(source, cells(nb))), re.M)
    return found and found[1]

def layers() -> dict[str, list[str]]:
    "Layer → names of its notebooks, as the table of the index has them."
    text = '\n'.join(map(source, cells(root/'nbs'/'index.ipynb')))
    rows = re.findall(r'^\| \d (\w+) \|([^|]*)\|', text, re.M)
    return {layer: re.findall(r'`(\w+)`', row) for layer, row in rows}

# --- the package's names, as they stand in the source

class Name(NamedTuple):
    "A public name of a module."
    name:str   # with its class, if it is a method
    code:str   # signature with its comments; fields of a class; value of a constant
    doc:str    # docstring, or the comment above

def head(lines:list[str], node) -> str:
    "The lines of a definition up to its docstring or body."
    body = node.body[0]
    if body.lineno==node.lineno: # all on one line
        return lines[node.lineno-1][node.col_offset:body.col_offset].rstrip(': ')
    text = lines[node.lineno-1:body.lineno-1]
    return '\n'.join(t[node.col_offset:] for t in text).rstrip(':')

def is_doc(node) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)

def first_line(node) -> int: # its decorators counted
    return min([node.lineno, *(d.lineno for d in getattr(node, 'decorator_list', []))])

def of_class(lines:list[str], node:ast.ClassDef) -> str:
    "A class without its methods: decorators, header, fields with their comments, `__init__`."
    body = [n for n in node.body if not is_doc(n)]
    methods = [n for n in body if isinstance(n, ast.FunctionDef)]
    end = first_line(methods[0])-1 if methods else node.end_lineno
    start = node.body[0].end_lineno if is_doc(node.body[0]) else node.body[0].lineno-1
    text = lines[first_line(node)-1:node.lineno-1] + [head(lines, node) + ':'] + lines[start:end]
    text += ['    ' + head(lines, n).replace('\n', '\n    ') for n in methods if n.name=='__init__']
    return '\n'.join(text).rstrip().rstrip(':')

def above(lines:list[str], node) -> str:
    "The comment right above a definition."
    out, i = [], first_line(node)-2
    while i >= 0 and (m := re.match(r'\s*# (?!%%)(.*)', lines[i])):
        out, i = [m[1]] + out, i-1
    return ' '.join(out)

def class_of_patch(node) -> str|None:
    "The class that a function with `@patch` is a method of."
    patches = any(ast.unparse(d)=='patch' for d in node.decorator_list)
    return ast.unparse(node.args.args[0].annotation) if patches else None

@functools.cache
def names(path:Path) -> list[Name]:
    "Public names of a module in the order of the source; methods after their class."
    text = path.read_text(encoding='utf-8')
    lines, out = text.splitlines(), {}
    def add(name, code, node):
        out[name] = Name(name, code, ast.get_docstring(node) or above(lines, node))
    def method(cls, node):
        if node.name[0]!='_':
            marks = [f'@{ast.unparse(d)}' for d in node.decorator_list]
            marks = [m for m in marks if m in ('@property', '@classmethod', '@staticmethod')]
            add(f'{cls}.{node.name}', '\n'.join(marks + [head(lines, node)]), node)
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef) and node.name[0]!='_':
            add(node.name, of_class(lines, node), node)
            for n in node.body:
                if isinstance(n, ast.FunctionDef):
                    method(node.name, n)
        elif isinstance(node, ast.FunctionDef):
            if cls := class_of_patch(node):
                method(cls, node)
            elif node.name[0]!='_':
                add(node.name, head(lines, node), node)
        elif isinstance(node, ast.Assign|ast.AnnAssign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(target, ast.Name) and target.id[0]!='_':
                code = lines[node.lineno-1:node.end_lineno]
                code = code if len(code) < 13 else code[:12] + ['…']
                out[target.id] = Name(target.id, '\n'.join(code), above(lines, node))
    order = {n.split('.')[0]: i for i, n in reversed(list(enumerate(out)))}
    return sorted(out.values(), key=lambda n: order[n.name.split('.')[0]])

@functools.cache
def modules() -> dict[str, Path]:
    "Module → its file; in reading order."
    found = [m for m in map(module_of, notebooks()) if m]
    return {m: root/'pcdistill'/f"{m.replace('.', '/')}.py" for m in found}

@functools.cache
def promised() -> set[str]:
    "Names of methods that some class of the package explains."
    every = [n for path in modules().values() for n in names(path)]
    return {n.name.split('.')[1] for n in every if '.' in n.name and n.doc}

# --- prose: references become links, formulas become MathML

def homes() -> dict[str, str]:
    "What prose calls a notebook → its page. In `extra` the folder may be left out."
    at = {called(nb): called(nb) + '.md' for nb in notebooks()}
    for name in list(at):
        at.setdefault(name.split('/')[-1], at[name])
    return at

def defined() -> dict[str, str]:
    "A name that one module defines → its place in the reference."
    found = [(n.name, m) for m, path in modules().items() for n in names(path)]
    once = Counter(name for name, _ in found)
    return {name: f'api/{m}.md#{anchor(m, name)}' for name, m in found if once[name]==1}

def anchor(module:str, name:str) -> str: return f'pcdistill.{module}.{name}'

def in_style(m) -> str:
    "A capital in script or with double strokes as a character of its own, as browsers want it."
    for first in ('MATHEMATICAL ', ''):
        with contextlib.suppress(KeyError):
            return f"<mi>{unicodedata.lookup(f'{first}{m[1].upper()} CAPITAL {m[2]}')}</mi>"
    return m[0]

def mathml(tex:str, display:bool=False) -> str:
    "A formula; what Markdown would read is written as numbers."
    from latex2mathml.converter import convert
    tex = re.sub(r'\\arg\b', r'\\operatorname{arg}', tex) # two things that `convert` cannot
    tex = re.sub(r'\\[bB]ig+[lr]?\\([lr])floor', r'\\\1floor', tex)
    text = convert(tex.strip(), display='block' if display else 'inline').replace('\n', ' ')
    text = re.sub(r'<mi mathvariant="([a-z-]+)">([A-Z])</mi>', in_style, text)
    text = re.sub(r'(<mi>(?:log|exp|max|min)</mi>)(?=<m(?!o))', r'\1<mspace width="0.17em"/>', text)
    assert not (left := re.findall(r'\\[a-zA-Z]+', text)), f'no MathML for {left} in {tex}'
    return '<span>' + re.sub(r'[*_`|\\\[\]$]', lambda m: f'&#{ord(m[0])};', text) + '</span>'

PIECES = re.compile(r'(?P<fence>^(?P<f>```|~~~).*?^(?P=f)[^\n]*$)|(?P<heading>^\#[^\n]*$)'
                    r'|(?P<link>!?\[(?:`[^`\n]*`|[^\]`])*\]\((?P<to>[^)\s]+)\))'
                    r'|\$\$(?P<display>.+?)\$\$|(?<!\\)\$(?P<inline>[^$\n]+)\$|`(?P<code>[^`\n]+)`'
                    r'|(?<![\w/.])(?P<question>E\d\d)(?!\w)', re.M | re.S | re.X)

class Prose:
    "How text of one page is written for the site."
    def __init__(self):
        self.homes, self.defined = homes(), defined()
        asked = [nb for nb in notebooks() if nb.parent.name=='experiments']
        self.questions = {nb.stem[:3]: called(nb) for nb in asked}

    def home(self, word:str, page:str) -> str|None:
        "Where the page of a notebook or name is, if it is not this one."
        near = f'{page.rpartition("/")[0]}/{word}'.lstrip('/')
        to = self.homes.get(near) or self.homes.get(word.removeprefix('nbs/'))
        to = to or self.defined.get(word.removesuffix('()'))
        return to if to and to.split('#')[0]!=page else None

    def write(self, text:str, page:str, folder:str='nbs') -> str:
        "Text that stood in `folder`, for `page`."
        def from_here(to): return posixpath.relpath(to, Path(page).parent)
        def linked(word, show):
            to = self.home(word, page)
            return f'[{show}]({from_here(to)})' if to else show
        def piece(m):
            if m['fence'] or m['heading']: return m[0]
            if m['display']: return mathml(m['display'], True)
            if m['inline']: return mathml(m['inline'])
            if m['code']: return linked(m['code'], m[0])
            if m['question']: return linked(self.questions.get(m['question'], ''), m[0])
            return self.link(m[0], m['to'], folder, from_here)
        return PIECES.sub(piece, text)

    def link(self, whole:str, to:str, folder:str, from_here) -> str:
        "A link that leads from the file in the repository, leading from the page."
        if re.match(r'\w+:|#', to): return whole
        path, _, at = to.partition('#')
        file = root/posixpath.normpath(f'{folder}/{path}')
        assert file.exists(), f'{folder} links to {to}, which is not there'
        place = called(file) + '.md' if file.suffix=='.ipynb' else file.relative_to(root).as_posix()
        place = {f'docs/{p}': p for p in OWN}.get(place, ROOT_PAGES.get(place, place))
        return whole.replace(f']({to})', f']({from_here(place)}{"#"*bool(at)}{at})')

# --- pages

OWN = ['queries.md', 'glossary.md']
ROOT_PAGES = {'CHANGELOG.md': 'changelog.md', 'CONTRIBUTING.md': 'contributing.md'}

def shown(data:dict, page:str, i:int) -> tuple[str, dict[str, bytes]]:
    "What a reader sees of an output, and its picture: path → contents."
    for kind in ('image/png', 'image/jpeg'):
        if kind in data:
            to = f'images/{Path(page).stem}_{i}.{kind.split("/")[1]}'
            picture = {(Path(page).parent/to).as_posix(): base64.b64decode(''.join(data[kind]))}
            return f'![What the cell above shows]({to}){{.output}}', picture
    if 'text/markdown' in data: return ''.join(data['text/markdown']), {}
    return fenced(''.join(data['text/plain']), '{.text .output}'), {}

def fenced(text:str, kind:str) -> str:
    tick = '`'*max(3, 1 + max(map(len, re.findall('`+', text)), default=0))
    return f'{tick}{kind}\n{text.rstrip()}\n{tick}'

def notebook_page(nb:Path, prose:Prose) -> dict[str, str|bytes]:
    "The page of a notebook and its pictures: path → contents."
    page, module, files, out = called(nb) + '.md', module_of(nb), {}, []
    for i, c in enumerate(cells(nb)):
        if c['cell_type']=='markdown':
            text = prose.write(source(c), page, nb.parent.relative_to(root).as_posix())
            if not out and module:
                api = posixpath.relpath(f'api/{module}.md', Path(page).parent)
                text += f'\n\nModule: [`pcdistill.{module}`]({api})'
            out.append(text)
            continue
        code = re.sub(r'^#\|.*\n?', '', source(c), flags=re.M).strip()
        exported = '#| export' in source(c)
        kind = f'{{.python title="pcdistill.{module}"}}' if exported else 'python'
        if code and 'hide_input' not in source(c):
            out.append(fenced(code, kind))
        printed = ''
        for j, o in enumerate(c['outputs']):
            if o['output_type']=='stream':
                printed += ''.join(o['text'])
                continue
            if printed: out.append(fenced(printed, '{.text .output}'))
            printed, (text, more) = '', shown(o['data'], page, 10*i + j)
            out.append(prose.write(text, page) if 'text/markdown' in o['data'] else text)
            files |= more
        if printed.strip(): out.append(fenced(printed, '{.text .output}'))
    return files | {page: '\n\n'.join(out) + '\n'}

def module_page(module:str, path:Path, nb:Path, prose:Prose) -> str:
    "The page of a module: each public name with its signature and docstring."
    page, out = f'api/{module}.md', []
    doc = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or ''
    taught = posixpath.relpath(called(nb) + '.md', 'api')
    out += [f'# pcdistill.{module}', prose.write(doc, page), f'Taught in [{called(nb)}]({taught}).']
    for n in names(path):
        cls, _, method = n.name.rpartition('.')
        if cls and not n.doc and method in promised(): # said where the promise is made
            continue
        out.append(f'{"###" if cls else "##"} {n.name} {{#{anchor(module, n.name)}}}')
        out += [fenced(n.code, 'python'), prose.write(n.doc, page)]
    return '\n\n'.join(t for t in out if t) + '\n'

def line(text:str|None) -> str:
    "The first line of a docstring, for a table."
    return (text or '').split('\n')[0].replace('|', r'\|')

def reference_page(init:Path) -> str:
    "The start of the reference: what the package gives by itself, and the modules by layer."
    tree = ast.parse(init.read_text(encoding='utf-8')).body
    whole, = [n.value for n in tree if isinstance(n, ast.Assign) and n.targets[0].id=='WHOLE']
    def table(rows): return '\n'.join(['| name | |', '|---|---|'] + [f'| {a} | {b} |' for a, b in rows])
    def first(k):
        m, said = k.value.value, {n.name: n.doc for n in names(modules()[k.value.value])}
        return f'[`{k.arg}`]({m}.md#{anchor(m, k.arg)})', line(said[k.arg])
    out = ['# Reference', 'Signatures and docstrings as they stand in the source. The comment '
           'after a parameter says what it is.', '## from pcdistill import …',
           table(map(first, whole.keywords))]
    made = {called(nb): module_of(nb) for nb in notebooks() if module_of(nb)}
    extra = [name for name in made if name.startswith('extra/')]
    for layer, group in (layers() | {'extra': extra}).items():
        rows = [(f'[`{made[n]}`]({made[n]}.md)', line(ast.get_docstring(ast.parse(
            modules()[made[n]].read_text(encoding='utf-8'))))) for n in group]
        out += [f'## {layer.capitalize()}', table(rows)]
    return '\n\n'.join(out) + '\n'

def title(nb:Path) -> str:
    return re.sub(r'[`*]', '', re.match(r'# (.*)', source(cells(nb)[0]))[1])

def nav() -> list:
    "The reading order."
    at = {called(nb): nb for nb in notebooks()}
    def pages(group): return [{title(at[n]): f'{n}.md'} for n in group]
    def in_folder(name): return [c for c in at if c.startswith(f'{name}/')]
    library = [{layer: pages(group)} for layer, group in layers().items()]
    return [
        {'Start': ['index.md', 'mini.md', 'play.md', 'app.md', 'queries.md', 'glossary.md']},
        {'Theory': pages(in_folder('theory'))},
        {'Library': library + [{'extra': pages(in_folder('extra'))}]},
        {'How to': pages(in_folder('howto'))},
        {'Experiments': pages(in_folder('experiments'))},
        {'Neighbours': pages(in_folder('neighbours'))},
        {'Reference': ['api/index.md'] + [f'api/{m}.md' for m in modules()]},
        {'Project': list(ROOT_PAGES.values())}]

def files() -> dict[str, str|bytes]:
    "Every file of the pages: path → contents."
    prose, out = Prose(), {}
    for nb in notebooks():
        out |= notebook_page(nb, prose)
        if m := module_of(nb):
            out[f'api/{m}.md'] = module_page(m, modules()[m], nb, prose)
    out['api/index.md'] = reference_page(root/'pcdistill'/'__init__.py')
    own = {f'docs/{p}': p for p in OWN} | ROOT_PAGES
    for at, page in own.items():
        text = (root/at).read_text(encoding='utf-8')
        out[page] = prose.write(text, page, str(Path(at).parent))
    texts = '\n'.join(t for t in out.values() if isinstance(t, str))
    pictures = set(re.findall(r'\]\((?:\.\./)*(nbs/[^)]+\.png)\)', texts))
    kept = {p: (root/p).read_bytes() for p in pictures}
    return out | kept | {'site.css': (root/'docs'/'site.css').read_bytes()}

def main(out:Path):
    shutil.rmtree(out/'pages', ignore_errors=True)
    for name, data in files().items():
        path = out/'pages'/name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    settings = (root/'docs'/'mkdocs.yml').read_text(encoding='utf-8')
    (out/'mkdocs.yml').write_text(f'{settings}nav: {json.dumps(nav())}\n', encoding='utf-8')

if __name__=='__main__': main(Path(sys.argv[1]))
