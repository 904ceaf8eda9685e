"What notebooks say of each other is true: they refer by name, to what is there; lessons show and assert."
import ast, io, json, re, tokenize
from pathlib import Path
import pytest
import notebooks

root = notebooks.root
NBS = notebooks.notebooks()
DOCS = [root/name for name in ('README.md', 'CONTRIBUTING.md', 'docs/glossary.md', 'docs/queries.md')]
LIBRARY = [p for p in NBS if re.match(r'\d\d_', p.name) or p.parent.name=='extra']

# Library notebooks that still refer by number, by the name of their module. It only gets shorter.
def name(path): return re.sub(r'^\d\d_', '', path.stem)
def where(path): return path.relative_to(root).as_posix()
each = lambda paths: pytest.mark.parametrize('path', paths, ids=where)

def cells(nb): return json.loads(nb.read_text(encoding='utf-8'))['cells']
def source(c): return ''.join(c['source'])
def code(nb): return [source(c) for c in cells(nb) if c['cell_type']=='code']

def said_in_code(text):
    "Comments and docstrings."
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [t.string for t in tokens if t.type==tokenize.COMMENT and not t.string.startswith('#|')]
    docs = [ast.get_docstring(n) for n in ast.walk(ast.parse(text))
            if isinstance(n, (ast.Module, ast.FunctionDef, ast.ClassDef))]
    return comments + [d for d in docs if d]

def said(path):
    "The prose of a notebook (markdown, comments and docstrings of exported cells) or of a page."
    if path.suffix=='.md': return re.sub(r'^```.*?^```', '', path.read_text(encoding='utf-8'), flags=re.M | re.S)
    exported = [s for s in code(path) if re.search(r'^#\|\s*exports?\b', s, re.M)]
    marked = [source(c) for c in cells(path) if c['cell_type']=='markdown']
    return '\n'.join(marked + [line for s in exported for line in said_in_code(s)])

def plain(text):
    "Without formulas and without what stands between backticks."
    return re.sub(r'`[^`\n]*`', '`…`', re.sub(r'\$\$.*?\$\$|\$[^$\n]*\$', '', text, flags=re.S))

NUMBER = r'[0-6]\d'
BY_NUMBER = re.compile(
    rf'\((?:[^()]*[,;] )?{NUMBER}(?:(?:, | and |–){NUMBER})*\)'      # (36), (36, 38), (a normal a head, 36)
    rf'|\b(?:[Nn]otebooks?|as in|asked as in|[Rr]eader of) {NUMBER}\b'  # notebook 34, as in 40
    rf'|`…` (?:of|in) {NUMBER}(?=[).,;])')                            # `Blend` of 31
ROTTED = re.compile(r'\bMETHOD(?:\.md)?\b|the only loop|the same call for all families')

def by_number(path): return BY_NUMBER.findall(plain(said(path)))

def test_the_patterns_find_what_they_should():
    found = ['a leaf (36)', 'a leaf (36, 38)', 'a head, (one normal a head, 36)', 'the top (`fit_latent_prior`; 41)', '(41 and 43)',
             'notebooks 30–35', 'Notebook 34', 'a leaf as in 40, a', 'a reader of 41', '(`Blend` of 31)']
    free = ['error (error 28)', 'values (0 … 16)', '(below, rank 16)', '`randn(32)`', '$f(16)$', 'median of 50', '(arXiv 2302.08086)',
            'in 32 states', '(one of 128)', '`figure(10)` of 12 images', 'patches of 4×4 (2 by 2)']
    assert [t for t in found if not BY_NUMBER.search(plain(t))]==[]
    assert [t for t in free if BY_NUMBER.search(plain(t))]==[]

@each(NBS + DOCS)
def test_nothing_is_referred_to_by_number(path):
    assert not (m := by_number(path)), f'refer to notebooks by name: {m}'

@each(NBS + DOCS)
def test_nothing_that_rotted_is_said(path):
    assert not (m := ROTTED.findall(said(path))), m

@each(NBS + DOCS)
def test_notebooks_that_are_named_are_there(path):
    text, stems = said(path), {p.stem for p in NBS}
    numbered = re.findall(r'\b\d\d_[a-z]\w*', text)
    assert not [n for n in numbered if n not in stems], 'no such notebook'
    for folder, stem in re.findall(r'\b(theory|experiments|howto|neighbours)/(\w+)', text):
        known = (root/'nbs'/folder/f'{stem}.ipynb').is_file() or (root/'nbs'/folder/stem).is_dir()
        assert known, f'no notebook {folder}/{stem}'

@each(NBS + DOCS)
def test_links_lead_somewhere(path):
    for link in re.findall(r'\]\((?!\w+:|#)([^)#\s]+)', re.sub(r'`[^`\n]*`', '', said(path))):
        assert (path.parent/link).exists(), link

# --- the index

def test_the_index_names_every_notebook():
    text = said(root/'nbs'/'index.ipynb')
    layers = re.findall(r'^\| \d [^|]*\|([^|]*)\|', text, re.M)
    named = [n for row in layers for n in re.findall(r'`(\w+)`', row)]
    assert sorted(named)==sorted(name(p) for p in LIBRARY if p.parent.name=='nbs'), 'the table of layers in index.ipynb is not that of the library'
    order = text[text.index('## Reading order'):]
    for p in NBS:
        if (p.parent.name=='extra' or p.parent.name=='nbs' and p not in LIBRARY) and p.stem!='index': assert f'`{p.stem}`' in order, p.stem

def test_layers_of_the_index_are_the_tens_of_names():
    text = said(root/'nbs'/'index.ipynb')
    tens = {name(p): p.name[0] for p in LIBRARY if p.parent.name=='nbs'}
    for digit, row in re.findall(r'^\| (\d) [^|]*\|([^|]*)\|', text, re.M):
        for n in re.findall(r'`(\w+)`', row): assert tens[n]==digit, f'{n} is not in layer {digit}'

# --- lessons

LESSONS = [p for p in NBS if p.parent.name in ('theory', 'howto', 'neighbours') or p.stem=='mini']

@each(LESSONS)
def test_a_lesson_shows_and_asserts(path):
    first = source(cells(path)[0])
    assert first.startswith('# ') and '\n> ' in first, 'first cell: title and one line'
    assert any(re.search(r'\bassert\b|\btest_\w+\(', s) for s in code(path)), 'no cell asserts anything'
    if path.parent.name=='howto': assert 'assert' in code(path)[-1], 'the last cell is the test that a reader wants'

def test_mini_is_small_and_stands_alone():
    "The whole method in 250 lines that take nothing but data from the kit, until the last cell compares."
    *own, last = code(root/'nbs'/'mini.ipynb')
    lines = [l for s in (*own, last) for l in s.splitlines() if l.strip()]
    assert len(lines)<=250 and max(map(len, lines))<=100
    for s in (*own, last):
        tokens = list(tokenize.generate_tokens(io.StringIO(s).readline))
        both = [t.line for t, then in zip(tokens, tokens[1:]) if t.string==';' and then.type==tokenize.NAME]
        assert not both, f'one statement a line: {both}'
    assert {n.split('.')[0] for s in own for n in notebooks.imported(s)}=={'data'}
    assert 'pcdistill.circuit' in last and re.search(r'assert abs\(.*< 1e-4', last)
