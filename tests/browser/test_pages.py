"""The pages at the ends of neighbours/N2_constraints and N5_returns, in a real JupyterLab.

Those notebooks train for up to half a minute, and assert their numbers themselves. So a page stands here in a small
notebook: all that the neighbour defines, models that are there at once, and the neighbour's own page of them.
"""
import ast, json
import pytest
from test_play import (CHROMIUM, FLAGS, LAYOUT, NAMELESS, PATIENCE, Lab, Page, loaded, press, root, run_all,
                       shoot, steady, sync_playwright, until)
pytestmark = pytest.mark.browser

WORDS = """
D, values = 24, ['�', *'\\n I.abcdefghijklmnopqrstuvwxyz']
V, index = len(values), {v: i for i, v in enumerate(values)}
net, m = Writer(V, D, 16, 1, 2).requires_grad_(False), random_hmm(V, 3, rng(0))
page = words_page(m, net.next)"""
LAKE = """
desc, lakes = [''.join(c.decode() for c in row) for row in gymnasium.make('FrozenLake-v1').unwrapped.desc], {}
for name, ice in (('ice', True), ('no ice', False)):
    w = world('FrozenLake-v1', 100, is_slippery=ice)
    data = windows(w, play(w, torch.full((16, 4), 1/4), 500, rng(1)))
    lakes[name] = Lake(w, counted(data), data)
page = lake_page()"""
SMALL = dict(words=('N2_constraints', WORDS), lake=('N5_returns', LAKE))

def defined(notebook):
    "Cells with what a notebook imports and defines: functions, classes, constants."
    def kept(n):
        if isinstance(n, ast.Assign):
            if not all(isinstance(t, ast.Name) for to in n.targets for t in getattr(to, 'elts', [to])):
                return False
            names = {m.id for m in ast.walk(n.value) if isinstance(m, ast.Name)}
            return isinstance(n.value, ast.Lambda) or names <= {'range'}
        return isinstance(n, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef))
    cells = json.loads((root/'nbs'/'neighbours'/f'{notebook}.ipynb').read_text(encoding='utf-8'))['cells']
    code = [ast.parse(''.join(c['source'])).body for c in cells if c['cell_type']=='code']
    return [text for body in code if (text := '\n'.join(ast.unparse(n) for n in body if kept(n)))]

def write(path):
    "One notebook with both pages, each with names of its own: what they define differs."
    code = [f'{", ".join(SMALL)} = {", ".join(["{}"]*len(SMALL))}']
    for name, (notebook, last) in SMALL.items():
        code += [f'exec({text!r}, {name})' for text in [*defined(notebook), last]] + [f"{name}['page']"]
    cells = [dict(cell_type='code', id=f'c{i}', metadata={}, execution_count=None, outputs=[], source=text)
             for i, text in enumerate([*code, 'done = True'])]
    kernel = dict(kernelspec=dict(display_name='python3', language='python', name='python3'))
    path.write_text(json.dumps(dict(cells=cells, metadata=kernel, nbformat=4, nbformat_minor=5)), encoding='utf-8')

@pytest.fixture(scope='module')
def page(tmp_path_factory):
    "The notebook, all cells run."
    lab = Lab(tmp_path_factory.mktemp('pages'), '')
    try:
        write(lab.folder/'nbs'/'pages.ipynb')
        until('JupyterLab', lab.up)
        with sync_playwright() as p:
            browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = Page(browser.new_page(viewport=dict(width=1280, height=1000)))
            page.set_default_timeout(1000*PATIENCE)
            page.goto(f'{lab.base}/lab/tree/pages.ipynb?token={lab.token}')
            loaded(page)
            page.asks = run_all(page, lab, 'done')
            yield page
            browser.close()
    finally:
        lab.stop()

def opened(page, name):
    "A widget, scrolled to, and its kernel, which answers in its names."
    page.evaluate("""async source => {
        const notebook = window.jupyterapp.shell.currentWidget.content
        const i = notebook.widgets.findIndex(c => c.model.sharedModel.source === source)
        await notebook.scrollToItem(i, 'start')
    }""", f"{name}['page']")
    box = page.locator(f'.pcd-{name}')
    box.wait_for()
    return box, lambda expression: page.asks(f'eval({expression!r}, {name})')

def looks(page, box, name):
    "Narrow or wide, by day or by night nothing is cut off or hidden; what has the focus says its name; no script complains."
    for theme in ('Dark', 'Light'):
        page.evaluate("name => window.jupyterapp.commands.execute('apputils:change-theme', "
                      "{ theme: `JupyterLab ${name}` })", theme)
        page.wait_for_function(f"() => document.body.dataset.jpThemeLight === '{str(theme=='Light').lower()}'")
        for width in (800, 1600):
            page.set_viewport_size(dict(width=width, height=1000))
            found = steady('the layout', lambda: box.evaluate(LAYOUT))
            assert found['cut']==0 and found['over']==[], (theme, width, found)
            assert all('mod-primary' in e for e in found['faint']), (theme, width, found)
            shoot(box, f'{name}_{theme}_{width}')
    assert box.evaluate(NAMELESS)==[] and page.wrong==[]

LABELS = "all => all.map(e => e.getAttribute('aria-label'))"

def test_words(page):
    "Texts are drawn that meet what was asked for; what cannot be met is one sentence."
    box, ask = opened(page, 'words')
    texts, alert = box.locator('.text'), box.get_by_role('alert').filter(visible=True)
    def texts_of(words, seed):
        "Ask for words; the texts on the page, when they are those of the kernel."
        box.get_by_label('words', exact=True).fill(words)
        press(box, 'Draw')
        until('other texts', lambda: ask('page.seed')==seed)
        wanted = ask("[f'{say(x_d)}: {\"met\" if sure_d[-1] else \"not met\"}' "
                     "for found in page.found.values() for x_d, sure_d in zip(*found)]")
        until('them on the page', lambda: texts.evaluate_all(LABELS)==wanted)
        return wanted
    first, other = texts_of('class, function', 2), texts_of('class, function', 3)
    assert first!=other and all(t.endswith(': met') and 'class' in t and 'function' in t for t in other[:8])
    for words in ('naïve', 'a word that is far too long'):
        box.get_by_label('words', exact=True).fill(words)
        press(box, 'Draw')
        alert.get_by_text('got what no text' if ' ' in words else 'got ï').wait_for()
        assert ask('page.seed')==3 and texts.first.get_attribute('aria-label')==other[0]
    assert all('cab' in t for t in texts_of('cab', 4)[:8]) and alert.count()==0
    assert set(box.locator('.text .word').all_inner_texts()) <= set('cab')
    chart, place = box.locator('svg').last.inner_html(), ask('page.place.value')
    box.get_by_label('place').press('ArrowLeft' if place==23 else 'ArrowRight')
    until('another place', lambda: abs(ask('page.place.value') - place)==1)
    until('another chart', lambda: box.locator('svg').last.inner_html()!=chart)
    looks(page, box, 'words')

def test_lake(page):
    "The agent walks; a field that is chosen shows its returns; numbers are those of the kernel."
    box, ask = opened(page, 'lake')
    fields, hard = box.get_by_role('listbox', name='fields of the lake'), box.get_by_label('asks for one of')
    image = "e => e.querySelector('.pcd-image').style.backgroundImage"
    before = fields.evaluate(image)
    press(box, 'Walk')
    box.get_by_text('6 walks: ').wait_for()
    until('another map', lambda: fields.evaluate(image)!=before)
    assert f"{ask('sum(field_of(p[-1])==chr(71) for p in page.fields)')} reached the goal" in box.inner_text()
    press(box, 'planned')
    until('what is said of the policy', lambda: 'planned reaches the goal' in box.inner_text())
    goal = ask("float(judge(lakes['ice'].w, page.policy.pi_oa[None]))")
    assert f'{goal:.1%} of episodes' in box.inner_text() and '6 walks' not in box.inner_text()
    assert hard.is_disabled()
    fields.get_by_role('option').nth(5).click()
    box.get_by_text('Field 5: an episode ends here.').wait_for()
    page.keyboard.press('ArrowRight')
    until('the field beside it', lambda: 'field 6' in box.locator('svg').last.text_content())
    press(box, 'no ice')
    until('the other lake', lambda: 'reaches the goal in 100.0%' in box.inner_text())
    press(box, 'event')
    until('a slider again', hard.is_enabled)
    hard.press('ArrowLeft')
    until('less', lambda: ask('page.hard.value')==3 and '8 (12%)' in box.inner_text())
    looks(page, box, 'lake')
