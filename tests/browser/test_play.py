"""play.ipynb in a real JupyterLab, in a real (headless) Chromium, by mouse and keyboard.

One server, one page, one kernel for all tests: they run in order. PCDISTILL_SHOTS names a folder for screenshots.
"""
import json, os, secrets, shutil, socket, subprocess, sys, time, urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse
import pytest

root = Path(__file__).resolve().parent.parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'))), None)
try: from playwright.sync_api import sync_playwright
except ImportError: sync_playwright = None
if CHROMIUM is None or sync_playwright is None:
    why = 'browser tests need ' + ('Chromium (apt-get install chromium)' if CHROMIUM is None else "playwright (pip install -e '.[browser]')") + ': make browser'
    if os.environ.get('PCDISTILL_BROWSER')=='required': raise RuntimeError(why)
    pytest.skip(why, allow_module_level=True)
FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']
pytestmark = pytest.mark.browser

def until(what, ok, seconds=60, every=.1):
    "The first true value of ok(); fails after so many seconds."
    end = time.monotonic() + seconds
    while not (value := ok()):
        assert time.monotonic() < end, f'waited {seconds} s in vain for {what}'
        time.sleep(every)
    return value

# --- a run, a server, a kernel, a page

@pytest.fixture(scope='session')
def run_folder(tmp_path_factory):
    "A small run of digits, by a teacher that is trained in a second."
    from pcdistill.chain import distill
    from pcdistill.recipe import recipe
    folder = tmp_path_factory.mktemp('run')/'digits'
    distill(recipe('digits', 'tiny', shape=(1, 8, 8), teacher='pixels', epochs=2), folder, 'cpu', progress=False)
    return folder

class Lab:
    "A JupyterLab with a configuration of its own."
    def __init__(self, folder, run_folder):
        with socket.socket() as s: s.bind(('127.0.0.1', 0)); self.port = s.getsockname()[1]
        self.token, self.folder, self.base = secrets.token_hex(16), folder, f'http://127.0.0.1:{self.port}'
        (folder/'nbs').mkdir(); shutil.copy(root/'nbs'/'play.ipynb', folder/'nbs')
        news = folder/'settings'/'@jupyterlab'/'apputils-extension'; news.mkdir(parents=True)
        (news/'notification.jupyterlab-settings').write_text('{"fetchNews": "false", "checkForUpdates": false}')
        own = {f'JUPYTER_{k}_DIR': str(folder/k.lower()) for k in ('CONFIG', 'DATA', 'RUNTIME')} | dict(
            JUPYTERLAB_SETTINGS_DIR=str(folder/'settings'), JUPYTERLAB_WORKSPACES_DIR=str(folder/'workspaces'), IPYTHONDIR=str(folder/'ipython'),
            PYTHONPATH=str(root), PCDISTILL_RUN=str(run_folder), OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1')
        options = dict(ip='127.0.0.1', port=self.port, port_retries=0, root_dir=folder/'nbs', allow_root=True, open_browser=False)
        self.log = open(folder/'lab.log', 'w')
        self.process = subprocess.Popen([sys.executable, '-m', 'jupyterlab', f'--IdentityProvider.token={self.token}', '--LabApp.expose_app_in_browser=True',
                                         *(f'--ServerApp.{k}={v}' for k, v in options.items())], env=dict({k: v for k, v in os.environ.items() if k!='MPLBACKEND'}, **own),
                                        stdout=self.log, stderr=subprocess.STDOUT, cwd=folder)
    def api(self, path, method='GET'):
        r = urllib.request.Request(f'{self.base}/api/{path}', method=method, headers={'Authorization': f'token {self.token}'}, data=b'' if method=='POST' else None)
        with urllib.request.urlopen(r, timeout=10) as answer: return json.load(answer)
    def up(self):
        assert self.process.poll() is None, (self.folder/'lab.log').read_text()
        try: return self.api('status')
        except OSError: return None
    def kernel(self):
        s = self.api('sessions'); return s[0]['kernel'] if s else None
    def stop(self):
        self.process.terminate()
        try: self.process.wait(20)
        except subprocess.TimeoutExpired: self.process.kill()
        self.log.close()

class Kernel:
    "Asks the kernel of the notebook for the value of an expression."
    def __init__(self, lab):
        from jupyter_client import BlockingKernelClient
        self.client = BlockingKernelClient(connection_file=str(lab.folder/'runtime'/f"kernel-{lab.kernel()['id']}.json"))
        self.client.load_connection_file(); self.client.start_channels(); self.client.wait_for_ready(timeout=60)
    def __call__(self, expression, seconds=60):
        answer = self.client.execute('import json as _j', silent=True, store_history=False, user_expressions={'v': f'_j.dumps({expression})'}, reply=True, timeout=seconds)
        v = answer['content']['user_expressions']['v']
        return json.loads(eval(v['data']['text/plain'])) if v['status']=='ok' else None

class Page:
    "The page, what it asked the network for, and what it complained of."
    def __init__(self, page):
        self.page, self.asked, self.wrong = page, [], []
        page.context.on('request', lambda r: self.asked.append(r.url))
        page.on('websocket', lambda s: self.asked.append(s.url))
        page.on('pageerror', lambda e: self.wrong.append(f'exception: {e}'))
        page.on('console', lambda m: self.wrong.append(f'{m.text} ({m.location.get("url", "")})') if m.type=='error' else None)
    def __getattr__(self, name): return getattr(self.page, name)

@pytest.fixture(scope='session')
def lab(tmp_path_factory, run_folder):
    lab = Lab(tmp_path_factory.mktemp('lab'), run_folder)
    try: until('JupyterLab', lab.up); yield lab
    finally: lab.stop()

def run_all(page, lab):
    "Run all cells and wait for the last one; returns the kernel."
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    ask = Kernel(lab)
    until('the last cell', lambda: ask("'terms' in globals()"), 150, .5)
    return ask

@pytest.fixture(scope='session')
def opened(lab, tmp_path_factory):
    "The page with all cells run, and the kernel."
    with sync_playwright() as p:
        browser = p.chromium.launch_persistent_context(tmp_path_factory.mktemp('profile'), executable_path=CHROMIUM, args=FLAGS, viewport=dict(width=1280, height=1000))
        page = Page(browser.pages[0]); page.set_default_timeout(30_000)
        page.goto(f'{lab.base}/lab/tree/play.ipynb?token={lab.token}')
        page.wait_for_function('() => window.jupyterapp'); page.wait_for_selector('.jp-Notebook .jp-Cell')
        until('an idle kernel', lambda: (k := lab.kernel()) and k['execution_state']=='idle')
        page.asks = run_all(page, lab)
        yield page
        browser.close()

@pytest.fixture
def ask(opened): return opened.asks

@pytest.fixture
def widget(opened, request):
    "widget(name): the widget, scrolled to."
    def find(name):
        box = opened.locator(f'.pcd-{name}')
        reach(opened, name); box.first.wait_for(); box.first.scroll_into_view_if_needed(); return box.first
    return find

def reach(page, name):
    "Scroll to the cell that shows a widget: JupyterLab draws only what is near."
    words = dict(inpaint='inpaint_pad(', latents='latent_browser(', samples='sample_browser(', growth='growth_stepper(', ledger='ledger_view(')[name]
    page.evaluate("""async word => {
        const notebook = window.jupyterapp.shell.currentWidget.content
        const i = notebook.widgets.findIndex(c => c.model.type === 'code' && c.model.sharedModel.source.includes(word) && !c.model.sharedModel.source.includes('import '))
        await notebook.scrollToItem(i, 'start')
    }""", words)

def shoot(box, name):
    if folder := os.environ.get('PCDISTILL_SHOTS'): Path(folder).mkdir(parents=True, exist_ok=True); time.sleep(.4); box.screenshot(path=f'{folder}/{name}.png')

def pixels(page, box, i):
    "Red channel of picture i of a gallery, as the browser has it, row by row."
    return page.evaluate("""async ([box, i]) => {
        const image = box.querySelectorAll('.pcd-image')[i], n = box.querySelectorAll('.pcd-image').length, side = 8
        const bitmap = await createImageBitmap(await (await fetch(image.style.backgroundImage.slice(5, -2))).blob())
        const canvas = new OffscreenCanvas(bitmap.width, bitmap.height), c = canvas.getContext('2d'); c.drawImage(bitmap, 0, 0)
        return [...c.getImageData(i*side, 0, side, side).data].filter((_, j) => j % 4 === 0)
    }""", [box.element_handle(), i])

def cell(canvas, row, col):
    box = canvas.bounding_box(); return box['x'] + (col+.5)*box['width']/8, box['y'] + (row+.5)*box['height']/8

hidden = "[i for i, v in enumerate(pad.pad.mask) if v]"

# --- the pad

def test_paint(opened, ask, widget):
    "A stroke hides exactly the pixels under it, in Python and on the page; what is seen stays; undo takes it back."
    box = widget('inpaint'); canvas, few = box.locator('canvas'), box.get_by_role('listbox', name='completion shown large')
    assert len(ask(hidden))==16                                                     # the centre, as in the notebook
    box.get_by_role('button', name='hide nothing').click(); until('an empty mask', lambda: ask(hidden)==[])
    truth = ask('pad.result().image[0, 0].flatten().tolist()')
    until('untouched samples', lambda: pixels(opened, few, 0)==truth)
    opened.mouse.move(*cell(canvas, 3, 2)); opened.mouse.down(); opened.mouse.move(*cell(canvas, 3, 5), steps=2); opened.mouse.move(*cell(canvas, 5, 5), steps=2); opened.mouse.up()
    painted = [26, 27, 28, 29, 37, 45]
    start = time.monotonic(); until('the stroke', lambda: ask(hidden)==painted); until('its result', lambda: ask('int((~pad.result().seen).sum())')==6)
    until('its picture', lambda: pixels(opened, few, 0)==ask('pad.result().samples[0, 0, 0].flatten().tolist()')); print(f'followed after {time.monotonic()-start:.2f} s')
    changed = set()
    for i in range(4):
        shown = pixels(opened, few, i); differ = {j for j in range(64) if shown[j]!=truth[j]}
        assert differ <= set(painted); changed |= differ
    assert len(changed) >= 3 and ask('float(pad.result().entropy[0].flatten()[26])') > 0
    assert 'row 5, column 5: hidden' in box.get_by_role('status').inner_text()
    shoot(box, 'pad_stroke')
    box.get_by_role('button', name='undo').click(); until('the mask before', lambda: ask(hidden)==[])
    until('untouched samples', lambda: pixels(opened, few, 0)==truth)

def test_fast_painting_does_not_queue(opened, ask, widget):
    "Hundreds of moves make a few results, and the last one is of the whole stroke."
    box = widget('inpaint'); canvas = box.locator('canvas')
    ask("pad.pad.observe(lambda c: globals().__setitem__('masks_seen', globals().get('masks_seen', 0) + 1), 'mask')")
    opened.mouse.move(*cell(canvas, 0, 0)); opened.mouse.down()
    for row in range(8): opened.mouse.move(*cell(canvas, row, 7*(row % 2==0)), steps=25)
    opened.mouse.up()
    start = time.monotonic(); left = until('the end of the stroke', lambda: (h := ask(hidden)) and 56 in h and h)
    assert time.monotonic()-start < 5; until('its result', lambda: ask('int((~pad.result().seen).sum())')==len(ask(hidden)))
    assert len(left) > 30 and 1 <= ask("masks_seen") <= 60
    box.get_by_role('button', name='hide all pixels').click(); until('a full mask', lambda: len(ask(hidden))==64)
    shoot(box, 'pad_all')

def test_pad_by_touch(opened, ask, widget):
    box = widget('inpaint'); canvas = box.locator('canvas'); box.get_by_role('button', name='hide nothing').click(); until('an empty mask', lambda: ask(hidden)==[])
    at = lambda row, col: [dict(zip('xy', cell(canvas, row, col)))]
    finger = opened.context.new_cdp_session(opened.page)
    for kind, points in (('touchStart', at(2, 1)), ('touchMove', at(3, 1)), ('touchMove', at(5, 1)), ('touchEnd', [])): finger.send('Input.dispatchTouchEvent', dict(type=kind, touchPoints=points))
    until('a finger\'s stroke', lambda: ask(hidden)==[17, 25, 33, 41])

def test_pad_by_keyboard(opened, ask, widget):
    box = widget('inpaint'); canvas = box.locator('canvas')
    box.get_by_role('button', name='hide nothing').click(); until('an empty mask', lambda: ask(hidden)==[])
    canvas.focus(); start = ask('pad.pad.at') or [4, 4]
    for key in ('ArrowLeft', 'Space', 'ArrowUp', 'Space'): opened.keyboard.press(key)
    two = until('two pixels', lambda: len(h := ask(hidden))==2 and h); assert two[1]-two[0]==8
    opened.keyboard.press('s'); opened.keyboard.press('Space'); until('one shown again', lambda: ask(hidden)==two[1:])
    opened.keyboard.press('u'); until('undone', lambda: ask(hidden)==two)
    opened.keyboard.press('h'); reached = []
    for _ in range(12):                                                             # where the tab key leads
        opened.keyboard.press('Tab'); reached.append(opened.evaluate('() => document.activeElement.getAttribute("aria-label")'))
        if reached[-1]=='from the sample to the mean': opened.keyboard.press('ArrowRight'); until('the slider', lambda: ask('pad.pad.blend') > 0)
        if reached[-1]=='sample 1': opened.keyboard.press('ArrowRight'); until('the second sample', lambda: ask('pad.few.value')==1); break
    assert reached[:3]==['paint hides pixels', 'paint shows pixels again', 'brush size in pixels'] and 'from the sample to the mean' in reached and 'sample 1' in reached, reached

def test_another_image_and_a_file_of_ones_own(opened, ask, widget, tmp_path):
    from PIL import Image
    box = widget('inpaint'); options = box.get_by_role('listbox', name='image to paint on').get_by_role('option')
    options.nth(4).click(); until('image 4', lambda: ask('bool((pad.result().image[0]==test[4]).all())'))
    Image.new('RGB', (50, 30), (200, 10, 10)).save(tmp_path/'red.png'); box.locator('input[type=file]').set_input_files(tmp_path/'red.png')
    until('the file, fitted', lambda: ask('pad.result().image.unique().tolist()')==[67])
    box.locator('canvas').evaluate('''async canvas => {
        const side = 16, paper = new OffscreenCanvas(side, side); const c = paper.getContext('2d'); c.fillStyle = '#404040'; c.fillRect(0, 0, side, side)
        const held = new DataTransfer(); held.items.add(new File([await paper.convertToBlob()], 'grey.png', { type: 'image/png' }))
        canvas.dispatchEvent(new DragEvent('drop', { dataTransfer: held, bubbles: true, cancelable: true }))
    }'''); until('a file dropped on it', lambda: ask('pad.result().image.unique().tolist()')==[64])
    (tmp_path/'text.png').write_text('no image'); box.locator('input[type=file]').set_input_files(tmp_path/'text.png')
    until('a sentence', lambda: 'wanted a picture' in box.get_by_role('alert').inner_text())
    options.nth(0).click(); until('image 0', lambda: ask('bool((pad.result().image[0]==test[0]).all())'))
    box.get_by_role('button', name='hide nothing').click(); until('an empty mask', lambda: ask(hidden)==[])
    canvas = box.locator('canvas'); box.get_by_label('brush size in pixels').fill('3'); box.get_by_role('button', name='paint hides pixels').click()
    opened.mouse.move(*cell(canvas, 3, 3)); opened.mouse.down(); opened.mouse.move(*cell(canvas, 4, 5), steps=4); opened.mouse.up(); until('a broad stroke', lambda: len(ask(hidden)) > 12)
    until('its result', lambda: ask('int((~pad.result().seen).sum())')==len(ask(hidden))); shoot(box, 'inpaint_pad')

# --- the others

def test_latents(opened, ask, widget):
    box = widget('latents'); options = box.get_by_role('listbox', name='latent values').get_by_role('option'); before = ask('values.k')
    options.nth(5).click(); k = until('another value', lambda: (k := ask('values.k'))!=before and k); assert f'value {k}' in box.inner_text()
    opened.keyboard.press('ArrowRight'); until('the next one', lambda: ask('values.every.value')==6)
    box.get_by_role('listbox', name='values most often beside it').get_by_role('option').nth(1).click(); until('a neighbour', lambda: ask('values.every.value')!=6)
    made = box.get_by_role('group', name='with this value'); here = pixels(opened, made, 1)
    box.get_by_role('listbox', name='patch to change').get_by_role('option').nth(3).click(); until('another patch', lambda: ask('values.patches.value')==3)
    until('its picture', lambda: pixels(opened, made, 1)!=here)
    image, now = pixels(opened, made, 0), pixels(opened, made, 1)
    assert all(now[j]==image[j] for j in range(64) if j//8 < 4 or j % 8 < 4) and now!=image        # only the lower right patch
    box.get_by_label('sorted by').select_option('bits'); until('another order', lambda: ask('values.by.value')=='bits'); shoot(box, 'latent_browser')

def test_samples(opened, ask, widget):
    box = widget('samples'); options = box.get_by_role('listbox', name='samples').get_by_role('option')
    options.nth(3).click(); until('sample 3', lambda: ask("samples.near.names[0]==f'sample\\n{samples.drawn.bits_b[3]:.2f} bits/dim'"))
    near = box.get_by_role('group', name='the chosen sample'); until('its picture', lambda: pixels(opened, near, 0)==ask('samples.drawn.x[3, 0].flatten().tolist()'))
    assert pixels(opened, near, 1)==ask('train[samples.drawn.near_bm[3, 0], 0].flatten().tolist()')
    first = ask('samples.drawn.x.sum().item()'); seed = box.get_by_label('seed')
    seed.fill('7'); seed.press('Enter'); until('other samples', lambda: ask('samples.drawn.x.sum().item()')!=first)
    seed.fill('0'); seed.press('Enter'); until('the same again', lambda: ask('samples.drawn.x.sum().item()')==first); shoot(box, 'sample_browser')

def test_growth(opened, ask, widget):
    box = widget('growth'); picture = box.locator('.pcd-image'); address = lambda: picture.evaluate('e => e.style.backgroundImage'); before = address()
    box.get_by_role('button', name='forward').click(); until('step 2', lambda: ask('steps.step.value')==2); until('another picture', lambda: address()!=before)
    assert until('what happened', lambda: 'Round 1, body 1' in box.inner_text()); shoot(box, 'growth_stepper')
    box.get_by_role('button', name='back').click(); until('step 1', lambda: ask('steps.step.value')==1); until('no way back', box.get_by_role('button', name='back').is_disabled)
    box.get_by_label('step', exact=True).fill('3'); opened.keyboard.press('Enter'); until('step 3', lambda: ask('steps.step.value')==3)

def test_ledger(opened, ask, widget):
    box = widget('ledger'); picture = box.locator('.pcd-image').last; address = lambda: picture.evaluate('e => e.style.backgroundImage'); before = address()
    box.get_by_role('listbox', name='image').get_by_role('option').nth(2).click(); until('image 2', lambda: ask("'image 2' in terms.picture.label"))
    until('another picture', lambda: address()!=before); shoot(box, 'ledger_view')

def test_figures(opened):
    "The figures that stand beside the widgets are pictures, also in a kernel whose pyplot drew none."
    shown = opened.evaluate("() => [...window.jupyterapp.shell.currentWidget.model.cells].flatMap(c => c.outputs?.toJSON() ?? []).map(o => o.data ?? {})")
    figures = [d for d in shown if 'Figure size' in str(d.get('text/plain'))]; assert len(figures)==5 and all('image/png' in d for d in figures)

def test_every_control_has_a_name(opened, widget):
    "What can be focused says what it is."
    for name in ('inpaint', 'latents', 'samples', 'growth', 'ledger'):
        nameless = widget(name).evaluate("""box => [...box.querySelectorAll('button, input, select, canvas, [tabindex="0"], [role=listbox], [role=img], [role=option]')]
            .filter(e => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || [...(e.labels ?? [])].map(l => l.textContent).join('') || e.textContent.trim() || e.title || e.type === 'file'))
            .map(e => e.outerHTML.slice(0, 200))""")
        assert nameless==[], (name, nameless)

# --- the end of a kernel, and what was asked of the network

GONE = 'The kernel of this widget is gone: run all cells again (Run → Run All Cells).'

def has_gone(page, box, name):
    "The widget says so once, in every panel, and neither mouse nor keyboard do anything."
    box.get_by_text(GONE).wait_for(); assert box.get_by_role('alert').count()==1; shoot(box, name)
    until('controls that cannot be reached', lambda: page.evaluate("() => [...document.querySelectorAll('.pcd-panel')].every(p => [...p.children].every(e => e.inert !== e.matches('.pcd-gone')))"))
    before = box.screenshot(); page.mouse.click(*cell(box.locator('canvas'), 1, 1)); box.locator('canvas').focus(); page.keyboard.press('Space')
    assert page.evaluate("() => document.activeElement.closest('.pcd-panel')") is None and box.screenshot()==before

def works_again(page, lab, widget):
    until('an idle kernel', lambda: (k := lab.kernel()) and k['execution_state']=='idle'); ask = page.asks = run_all(page, lab)
    box = widget('inpaint'); canvas = box.locator('canvas'); box.get_by_role('button', name='hide nothing').click(); until('an empty mask', lambda: ask(hidden)==[])
    page.mouse.click(*cell(canvas, 6, 1)); until('a pixel', lambda: ask(hidden)==[49]); assert not box.get_by_text(GONE).is_visible()

def opened_again(page):
    "After a reload of the page."
    page.reload(); page.wait_for_function('() => window.jupyterapp'); page.wait_for_selector('.jp-Notebook .jp-Cell')

@pytest.mark.parametrize('how', ['restarted', 'died'])
def test_kernel_ends(opened, lab, ask, widget, how):
    "The widgets of a kernel that is gone say so and do nothing; after another run they work."
    box = widget('inpaint'); assert not box.get_by_text(GONE).is_visible()
    if how=='restarted': opened.evaluate("() => { window.jupyterapp.commands.execute('kernelmenu:restart') }")
    else: ask.client.execute('import os; os._exit(1)')
    opened.locator('.jp-Dialog').locator('.jp-mod-accept').click(); has_gone(opened, box, f'kernel_{how}'); works_again(opened, lab, widget)

def test_reload(opened, lab, ask, widget):
    "After a reload of the saved page the widgets are as they were, and live; of a notebook not saved there are none."
    opened.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')"); before = ask(hidden); opened_again(opened)
    box = widget('inpaint'); assert ask(hidden)==before
    opened.mouse.click(*cell(box.locator('canvas'), 0, 0)); until('a pixel more', lambda: ask(hidden)==[0, *before]); until('its result', lambda: ask('int((~pad.result().seen).sum())')==1+len(before))
    until('its picture', lambda: pixels(opened, box.get_by_role('listbox', name='completion shown large'), 0)==ask('pad.result().samples[0, 0, 0].flatten().tolist()')); shoot(box, 'reload')

def test_reload_after_a_shutdown(opened, lab, widget):
    "A kernel that is shut down is missed at once; after a reload JupyterLab says in place of each widget that there is none."
    box = widget('inpaint'); opened.evaluate("() => { window.jupyterapp.commands.execute('kernelmenu:shutdown') }"); has_gone(opened, box, 'kernel_shut_down')
    fine = opened.wrong[:]; opened_again(opened); reach(opened, 'inpaint'); opened.get_by_text('Error displaying widget').first.wait_for(); assert opened.locator('.pcd').count()==0
    assert all('model not found' in w for w in opened.wrong[len(fine):]); opened.wrong[:] = fine
    works_again(opened, lab, widget); assert opened.get_by_text('Error displaying widget').count()==0
    fine = [w for w in opened.wrong if 'model not found' not in w]; opened.wrong[:] = fine

def test_nothing_left_the_machine_and_nothing_went_wrong(opened):
    away = [u for u in opened.asked if urlparse(u).scheme not in ('data', 'blob') and urlparse(u).hostname!='127.0.0.1']
    assert len(opened.asked) > 20 and away==[]
    assert opened.wrong==[]
