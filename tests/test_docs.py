"The pages of the documentation: every public name, links, glossary, the table of queries; and the site itself, where it can be built."
import ast, functools, importlib.util, os, re, subprocess, sys
from configparser import ConfigParser
from pathlib import Path
import pytest, torch, yaml
import notebooks
sys.path.insert(0, str(notebooks.root/'docs'))
import pages
from jaxtyping import TypeCheckError
from pcdistill.extra.compress import decode, encode
from pcdistill.core import Refused, rng
from pcdistill.inpainting import inpaint
from small_images import BYTES
from test_innovations import small

root = notebooks.root
MODULES = {p.relative_to(root/'pcdistill').with_suffix('').as_posix().replace('/', '.'): p for p in (root/'pcdistill').rglob('*.py') if p.name[0]!='_'}
there = lambda *names: all(importlib.util.find_spec(n) for n in names)

@functools.cache
def files():
    with pytest.MonkeyPatch.context() as m:
        if not there('latex2mathml'): m.setattr(pages, 'mathml', lambda tex, display=False: '<math></math>')
        return pages.files()

def texts(): return {name: data for name, data in files().items() if name.endswith('.md')}

# --- every public name

def public(path):
    "Top-level functions and classes, and methods of classes, as (name, has a docstring)."
    out = []
    for n in ast.parse(path.read_text()).body:
        if isinstance(n, ast.FunctionDef):
            of = [f'{ast.unparse(n.args.args[0].annotation)}.' for d in n.decorator_list if ast.unparse(d)=='patch']
            out.append((''.join(of) + n.name, bool(ast.get_docstring(n))))
        elif isinstance(n, ast.ClassDef):
            out += [(n.name, bool(ast.get_docstring(n)))] + [(f'{n.name}.{m.name}', bool(ast.get_docstring(m))) for m in n.body if isinstance(m, ast.FunctionDef)]
    return [(name, said) for name, said in out if not any(part[0]=='_' for part in name.split('.'))]

EXPLAINED = {name.split('.')[1] for p in MODULES.values() for name, said in public(p) if '.' in name and said}

@pytest.mark.parametrize('module', MODULES)
def test_every_public_name_is_documented(module):
    "With its signature, and in words: a docstring, or a comment. Methods may keep a promise that another class explains."
    page = texts()[f'api/{module}.md']
    exported = re.search(r'^__all__ = (\[.*?\])', MODULES[module].read_text(), re.M | re.S)[1]
    for name, said in public(MODULES[module]) + [(n, True) for n in ast.literal_eval(exported) if n[0]!='_']:
        at = re.search(rf'^##+ {re.escape(name)} \{{#pcdistill\.{re.escape(module)}\.{re.escape(name)}\}}\n\n```python\n(.*?)\n```\n(.*?)(?=^##|\Z)', page, re.M | re.S)
        if '.' in name and not at: assert not said and name.split('.')[1] in EXPLAINED, f'{name} is not in the reference'; continue
        assert at and name.split('.')[-1] in at[1], f'{name} is not in the reference'
        is_class = re.search(r'^class ', at[1], re.M); by_comment = at[1] if '(NamedTuple)' in at[1] else '' if is_class else at[1].splitlines()[-1]   # of fields
        assert '.' in name or at[2].strip() or '#' in by_comment or re.match(r'\w+(:.*?)? = ', at[1]), f'{name} has no word of explanation'

def test_what_the_package_gives_by_itself_comes_first():
    import pcdistill
    for name, module in pcdistill.WHOLE.items(): assert f'[`{name}`]({module}.md#pcdistill.{module}.{name})' in texts()['api/index.md']

def test_signatures_are_whole():
    page = texts()['api/inpainting.md']
    assert 'belief_bnk:Float[Tensor, "b n k"]|None=None, # log-evidence of latents\n    tiled:bool=False, # one picture that is larger than the model\'s images: not fitted, cut in tiles\n) -> Inpainted\n```\n\nMean, entropy and samples' in page
    assert '@dataclass(frozen=True)\nclass InnovationsConfig:\n    cell:int = 4           # side of a cell, even' in texts()['api/extra.innovations.md']
    assert 'def groups(' in texts()['api/normals.md'] and 'distinct rows among those at' in texts()['api/normals.md']   # a comment above says it
    assert '    def __init__(self, K:int, d:int, shrink:float=100.)\n```' in texts()['api/extra.innovations.md']

# --- pages and links

def test_every_page_stands_in_the_navigation_once():
    def leaves(x): return [x] if isinstance(x, str) else [p for y in (x.values() if isinstance(x, dict) else x) for p in leaves(y)]
    assert sorted(leaves(pages.nav()))==sorted(texts())

def anchors(text):
    slug = lambda t: re.sub(r'[\s-]+', '-', re.sub(r'[^\w\s-]', '', t).strip().lower())
    return {m[2] or slug(m[1]) for m in re.finditer(r'^#+ (.*?)(?: \{#(.*)\})?$', text, re.M)}

def test_links_of_the_pages_lead_somewhere():
    n = 0
    for page, text in texts().items():
        plain = re.sub(r'^(`{3,}).*?^\1$', '', text, flags=re.M | re.S)
        for to in re.findall(r'\]\((?!\w+:)([^)\s]*)\)', plain):
            path, _, at = to.partition('#'); n += 1
            path = os.path.normpath(Path(page).parent/path) if path else page
            assert path in files(), f'{page}: no {path}'
            assert not at or at in anchors(texts()[path]), f'{page}: no {at} in {path}'
    assert n > 500

@pytest.mark.parametrize('page,text,want', [
    ('mini.md', 'see `em`.', 'see [`em`](em.md).'), ('em.md', 'this, `em`,', 'this, `em`,'), ('theory/T1_circuits.md', '`em` and `T4_em`', '[`em`](../em.md) and [`T4_em`](T4_em.md)'),
    ('mini.md', '`extra/sums`, `sums`', '[`extra/sums`](extra/sums.md), [`sums`](extra/sums.md)'), ('extra/graphs.md', '`inputs`', '[`inputs`](inputs.md)'), ('mini.md', '`inputs`', '[`inputs`](inputs.md)'),
    ('mini.md', '`fit_innovations`', '[`fit_innovations`](api/extra.innovations.md#pcdistill.extra.innovations.fit_innovations)'), ('mini.md', '`no_such_name`', '`no_such_name`'),
    ('mini.md', '[`em`](25_em.ipynb#steps)', '[`em`](em.md#steps)'), ('mini.md', '![a pad](images/pad.png)', '![a pad](nbs/images/pad.png)'), ('mini.md', '[x](https://a.b/em)', '[x](https://a.b/em)'),
    ('mini.md', '```python\n`em` $x$\n```', '```python\n`em` $x$\n```'), ('index.md', 'E07 how good', '[E07](experiments/E07_inpainting.md) how good'), ('mini.md', '## `em`', '## `em`')])
def test_what_is_called_by_name_becomes_a_link(page, text, want): assert pages.Prose().write(text, page)==want

def test_a_link_to_a_notebook_that_is_not_there_is_found():
    "Its page may be there all the same, for pages have no numbers."
    with pytest.raises(AssertionError, match='99_em'): pages.Prose().write('[`em`](99_em.ipynb)', 'mini.md')

def test_outputs_are_shown_and_directives_are_not():
    text = ''.join(texts().values())
    assert not re.search(r'^#\|', text, re.M) and 'hide_input' not in texts()['index.md'] and '| cifar10 | normals |' in texts()['index.md']
    assert sum(name.endswith('.png') for name in files()) > 100 and '```{.text .output}\n' in text

@pytest.mark.skipif(not there('latex2mathml'), reason='latex2mathml is not installed: make docs')
@pytest.mark.parametrize('tex', [r'\arg\max_k\,\log p(x\mid k)', r'\big\lfloor b_d\big\rfloor', r'\mathcal N(0, T_k)', r'a_b*c'])
def test_formulas(tex):
    got = pages.mathml(tex); assert re.fullmatch(r'<span><math .*</math></span>', got) and not re.search(r'[*_`|\\$]', got)
    if 'cal' in tex: assert '<mi>𝒩</mi>' in got

# --- own pages

def test_the_glossary():
    text = (root/'docs'/'glossary.md').read_text(); terms = re.findall(r'^- \*\*(.+?)\*\*: (.+) \(\[`(\S+)`\]\(\S+\.ipynb\)\)$', text, re.M)
    assert len(terms)==text.count('\n- ') and len({t for t, _, _ in terms})==len(terms) > 40
    for term, said, where in terms:
        assert where in pages.homes(), f'{term}: no notebook {where}'
        assert said.endswith('.') and len(re.findall(r'[.!?](?= [A-ZK]|$)', said))<=2, f'{term}: two sentences at most'
    words = 'emission,latent prior,head,flow,innovation,density,chain,partition,shape,circuit per cluster,one-hot evidence,soft evidence,mass on an integer,teacher,student,ledger'
    assert set(words.split(','))<={t for t, _, _ in terms}

STUDENTS = dict(trees=BYTES['trees'], grown=BYTES['own_trees'], normals=BYTES['squares'], innovations=lambda s: small(seed=s))

def table():
    rows = re.findall(r'^\| (.*) \|$', (root/'docs'/'queries.md').read_text().split('## ')[0], re.M)
    head, *rows = [[c.strip() for c in re.split(r'(?<!\\)\|', r)] for r in rows]
    return {family: {r[0]: r[i] for r in rows} for i, family in enumerate(head) if i}

def asked(image):
    "What a small student answers, in the words of the table."
    x = torch.randint(60, 200, (2, *image.shape), generator=rng(0), dtype=torch.uint8); h, w = image.shape[1:]
    some = torch.rand(2, h, w, generator=rng(1)) > .5; some[:, 0, :2] = torch.tensor([False, True])
    none = torch.zeros_like(some); meaning = lambda r: 'probability' if bool(r.exact.all()) else 'density'
    def may(f):
        try: return f()
        except (Refused, TypeCheckError): return None # another kind of model than is wanted
    def squeezed(): data = encode(x, image); return torch.equal(decode(data, image)[0], x)
    soft = torch.full(x.shape, 100.), torch.full(x.shape, .01)
    r, soft = inpaint(image, x, some, 2, rng(2)), may(lambda: inpaint(image, x, some, 1, rng(2), soft=soft))
    belief = may(lambda: inpaint(image, x, some, 1, rng(2), belief_bnk=torch.zeros(2, 1, 1)))
    assert r.samples.shape==(2, *x.shape) and r.mean.shape==x.shape
    return {'log p of a whole image': meaning(inpaint(image, x, none, 0)),
            'log p(hidden \\| seen)': meaning(r), 'soft evidence about pixels': meaning(soft) if soft else 'refused', 'beliefs about latents': 'yes' if belief else 'refused',
            'compress and decompress': 'yes' if may(squeezed) else 'no', 'one distribution for all masks': 'yes' if image.joint else 'no'}

@pytest.mark.parametrize('family', STUDENTS)
def test_the_table_of_queries(family):
    for query, word in asked(STUDENTS[family](3)).items(): assert re.split(r'[ ,;:]', table()[family][query])[0]==word, (family, query)

def test_the_table_of_queries_has_every_family():
    from pcdistill.emission import FAMILIES
    assert set(table())==set(FAMILIES) | {'innovations'}==set(STUDENTS)

# --- around

ini = ConfigParser(delimiters=['='], interpolation=None); ini.read(root/'settings.ini', encoding='utf-8'); ini = ini['DEFAULT']

def test_citation():
    c = yaml.safe_load((root/'CITATION.cff').read_text())
    assert c['cff-version']=='1.2.0' and c['version']==ini['version'] and c['license']=='Apache-2.0' and c['title'].startswith('pcdistill') and c['authors'] and c['message']

def test_what_builds_the_site_is_pinned():
    pinned = {l.split('==')[0].lower() for l in (root/'constraints.txt').read_text().splitlines()}
    assert {re.split('[<>=]', r)[0] for r in ini['docs_requirements'].split()}<=pinned

@pytest.mark.slow
@pytest.mark.skipif(not there('zensical', 'latex2mathml'), reason='zensical is not installed: make docs')
def test_the_site(tmp_path):
    "Built without a warning; nothing in it is fetched from elsewhere; a link that leads nowhere is found."
    def run(*command, at=tmp_path): return subprocess.run(command, cwd=at, capture_output=True, text=True)
    assert (p := run(sys.executable, root/'docs'/'pages.py', tmp_path)).returncode==0, p.stderr
    build = Path(sys.executable).parent/'zensical', 'build', '--strict', '--clean', '--config-file', 'mkdocs.yml'
    assert (p := run(*build)).returncode==0 and 'No issues found' in p.stdout + p.stderr, p.stdout + p.stderr
    for page in texts():
        html = (tmp_path/'site'/page).with_suffix('.html').read_text()
        assert not (far := re.findall(r'<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)="?((?:https?:)?//[^"> ]*)', html)), (page, far)
    bad = tmp_path/'bad'; (bad/'pages').mkdir(parents=True); (bad/'mkdocs.yml').write_text((root/'docs'/'mkdocs.yml').read_text())
    for link, fails in (('index.md', False), ('nowhere.md', True)):
        (bad/'pages'/'index.md').write_text(f'# A\n\n[a]({link})\n'); assert (run(*build, at=bad).returncode!=0)==fails
