"""play.ipynb in a real JupyterLab, in a real (headless) Chromium, by mouse and keyboard.

One server, one page, one kernel for all tests: they run in order. No assertion counts on a speed:
`until` waits for a condition, `steady` for what has stopped changing, on however slow a machine.
PCDISTILL_SHOTS names a folder for screenshots.
"""
import base64, io, json, os, secrets, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path
from urllib.parse import urlparse
import numpy as np, pytest
from PIL import Image

root = Path(__file__).resolve().parent.parent.parent
NAMES = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
try:
    from playwright.sync_api import sync_playwright
except ImportError:
    sync_playwright = None
if CHROMIUM is None or sync_playwright is None:
    lacking = 'Chromium (apt-get install chromium)'
    if CHROMIUM:
        lacking = "playwright (pip install -e '.[browser]')"
    why = f'browser tests need {lacking}: make browser'
    if os.environ.get('PCDISTILL_BROWSER')=='required':
        raise RuntimeError(why)
    pytest.skip(why, allow_module_level=True)
FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
         '--disable-background-networking', '--disable-component-update']
pytestmark = pytest.mark.browser

# --- patience

PATIENCE = 240 # seconds after which a condition counts as never met

def until(what, ok, seconds=PATIENCE, every=.1):
    "The first true value of ok()."
    end = time.monotonic() + seconds
    while not (value := ok()):
        assert time.monotonic() < end, f'waited {seconds} s in vain for {what}'
        time.sleep(every)
    return value

def steady(what, ask, times=4, every=.1):
    "The value of ask() once it has been the same, and not None, so many times in a row."
    seen = []
    def same():
        seen.append(ask())
        last = seen[-times:]
        return len(last)==times and last[-1] is not None and all(v==last[-1] for v in last)
    until(f'{what} to stop changing', same, every=every)
    return seen[-1]

# --- a run, a server, a kernel, a page

@pytest.fixture(scope='session')
def run_folder(tmp_path_factory):
    "A small run of digits, by a teacher that is trained in a second."
    from pcdistill.chain import distill
    from pcdistill.recipes import recipe
    folder = tmp_path_factory.mktemp('run')/'digits'
    r = recipe('digits', 'tiny', shape=(1, 8, 8), teacher='pixels', epochs=2)
    distill(r, folder, 'cpu', progress=False)
    return folder

def surroundings(folder, run_folder):
    "Environment of a JupyterLab whose files are all in one folder."
    env = {k: v for k, v in os.environ.items() if k!='MPLBACKEND'}
    env |= {f'JUPYTER_{k}_DIR': str(folder/k.lower()) for k in ('CONFIG', 'DATA', 'RUNTIME')}
    env |= dict(JUPYTERLAB_SETTINGS_DIR=str(folder/'settings'), IPYTHONDIR=str(folder/'ipython'),
                JUPYTERLAB_WORKSPACES_DIR=str(folder/'workspaces'))
    return env | dict(PYTHONPATH=str(root), PCDISTILL_RUN=str(run_folder), OMP_NUM_THREADS='1',
                      HF_HUB_OFFLINE='1')

def free_port() -> int:
    "A port that nobody listens on."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

class Lab:
    "A JupyterLab with a configuration of its own."
    def __init__(self, folder, run_folder):
        port = free_port()
        self.token, self.folder = secrets.token_hex(16), folder
        self.base = f'http://127.0.0.1:{port}'
        (folder/'nbs').mkdir()
        shutil.copy(root/'nbs'/'play.ipynb', folder/'nbs')
        news = folder/'settings'/'@jupyterlab'/'apputils-extension'
        news.mkdir(parents=True)
        quiet = '{"fetchNews": "false", "checkForUpdates": false}'
        (news/'notification.jupyterlab-settings').write_text(quiet)
        options = dict(ip='127.0.0.1', port=port, port_retries=0, root_dir=folder/'nbs',
                       allow_root=True, open_browser=False)
        command = [sys.executable, '-m', 'jupyterlab', f'--IdentityProvider.token={self.token}',
                   '--LabApp.expose_app_in_browser=True']
        command += [f'--ServerApp.{k}={v}' for k, v in options.items()]
        self.log = open(folder/'lab.log', 'w')
        self.process = subprocess.Popen(command, env=surroundings(folder, run_folder), cwd=folder,
                                        stdout=self.log, stderr=subprocess.STDOUT)

    def api(self, path):
        asked = urllib.request.Request(f'{self.base}/api/{path}',
                                       headers={'Authorization': f'token {self.token}'})
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            return json.load(answer)

    def up(self):
        assert self.process.poll() is None, (self.folder/'lab.log').read_text()
        try:
            return self.api('status')
        except OSError:
            return None

    def kernel(self):
        sessions = self.api('sessions')
        return sessions[0]['kernel'] if sessions else None

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()

class Kernel:
    "Asks the kernel of the notebook for the value of an expression."
    def __init__(self, lab):
        from jupyter_client import BlockingKernelClient
        file = lab.folder/'runtime'/f"kernel-{lab.kernel()['id']}.json"
        self.client = BlockingKernelClient(connection_file=str(file))
        self.client.load_connection_file()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE)

    def __call__(self, expression, seconds=PATIENCE):
        answer = self.client.execute('import json as _j', silent=True, reply=True,
                                     store_history=False, timeout=seconds,
                                     user_expressions={'v': f'_j.dumps({expression})'})
        v = answer['content'].get('user_expressions', {}).get('v', {})
        return json.loads(eval(v['data']['text/plain'])) if v.get('status')=='ok' else None

class Page:
    "The page, what it asked the network for, and what it complained of."
    def __init__(self, page):
        self.page, self.asked, self.wrong = page, [], []
        page.context.on('request', lambda r: self.asked.append(r.url))
        page.on('websocket', lambda s: self.asked.append(s.url))
        page.on('pageerror', lambda e: self.wrong.append(f'exception: {e}'))
        page.on('console', self.console)

    def console(self, m):
        if m.type=='error':
            self.wrong.append(f'{m.text} ({m.location.get("url", "")})')

    def __getattr__(self, name):
        return getattr(self.page, name)

@pytest.fixture(scope='module')
def lab(tmp_path_factory, run_folder):
    lab = Lab(tmp_path_factory.mktemp('lab'), run_folder)
    try:
        until('JupyterLab', lab.up)
        yield lab
    finally:
        lab.stop()

HERE = 'window.jupyterapp?.shell.currentWidget'

def loaded(page):
    "Wait for a page with a notebook in it."
    page.wait_for_function(f"() => {HERE}?.content?.widgets?.length > 5")
    page.wait_for_selector('.jp-Notebook .jp-Cell')

def run_all(page, lab, last='terms'):
    "Run all cells and wait for what the last one makes; returns the kernel."
    page.wait_for_function(f"() => {HERE}.sessionContext.session?.kernel?.status === 'idle'")
    until('an idle kernel', lambda: (k := lab.kernel()) and k['execution_state']=='idle')
    page.asks = ask = Kernel(lab)
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    until('the last cell', lambda: ask(f"'{last}' in globals()", 900), 900, .5)
    return ask

def works(page, lab):
    "Whether there is a kernel in which all cells have run."
    try:
        return lab.kernel() is not None and page.asks("'terms' in globals()", 20)
    except TimeoutError:
        return False

@pytest.fixture(scope='module')
def browser(lab, tmp_path_factory):
    "The page, before anything has run."
    with sync_playwright() as p:
        browser = p.chromium.launch_persistent_context(
            tmp_path_factory.mktemp('profile'), executable_path=CHROMIUM, args=FLAGS,
            viewport=dict(width=1280, height=1000))
        page = Page(browser.pages[0])
        page.set_default_timeout(1000*PATIENCE)
        page.goto(f'{lab.base}/lab/tree/play.ipynb?token={lab.token}')
        loaded(page)
        run_all(page, lab)
        yield page
        browser.close()

@pytest.fixture
def opened(browser, lab):
    "The page with all cells run, whatever an earlier test has left behind."
    if not works(browser, lab):
        browser.reload()
        loaded(browser)
        run_all(browser, lab)
    return browser

@pytest.fixture
def ask(opened):
    return opened.asks

@pytest.fixture
def widget(opened):
    "widget(name): the widget, scrolled to, when it has found its place."
    def find(name):
        box = opened.locator(f'.pcd-{name}').last
        reach(opened, name)
        box.wait_for()
        box.scroll_into_view_if_needed()
        steady(f'the place of {name}', box.bounding_box)
        return box
    return find

WORDS = dict(photos='photo_pad = inpaint_pad(', inpaint='pad = inpaint_pad(image', latents='latent_browser(', samples='sample_browser(',
             growth='growth_stepper(', ledger='ledger_view(')

def reach(page, name):
    "Scroll to the cell that shows a widget: JupyterLab draws only what is near."
    page.evaluate("""async word => {
        const notebook = window.jupyterapp.shell.currentWidget.content
        const has = text => text.includes(word) && !text.includes('import ')
        const source = c => c.model.sharedModel.source
        const i = notebook.widgets.findIndex(c => c.model.type === 'code' && has(source(c)))
        await notebook.scrollToItem(i, 'start')
    }""", WORDS[name])

# --- what is on the page

def shoot(box, name):
    "A screenshot to look at, when nothing on it moves any more."
    if folder := os.environ.get('PCDISTILL_SHOTS'):
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, f'{name}.png').write_bytes(steady('the picture', box.screenshot, 2, .4))

READ = """async e => {
    try {
        const image = e.querySelector('.pcd-image').style.backgroundImage
        const blob = await (await fetch(image.slice(5, -2))).blob()
        await createImageBitmap(blob)
        return await new Promise(done => {
            const reader = new FileReader()
            reader.onload = () => done(reader.result)
            reader.readAsDataURL(blob)
        })
    } catch { return null }
}"""

def picture(gallery, ok):
    """What a gallery shows [h w 3], as the browser has it, as soon as it is as wanted.

    The kernel answers widgets in another thread than us: what it knows is not yet on the page."""
    def wanted():
        address = gallery.evaluate(READ)   # None while one picture is exchanged for another
        if address:
            data = base64.b64decode(address.split(',')[1])
            shown = np.array(Image.open(io.BytesIO(data)).convert('RGB'))
            return ok(shown) and [shown]
    return until('a picture as wanted', wanted)[0]

def pixels(shown, i):
    "Red channel of image i of a row of images of 8×8."
    return shown[:8, 8*i:8*i+8, 0].flatten().tolist()

def pixel_places(canvas):
    "(row, column) → where on the page that pixel of the canvas is."
    box = steady('the canvas', canvas.bounding_box)
    def place(row, col):
        return box['x'] + (col+.5)*box['width']/8, box['y'] + (row+.5)*box['height']/8
    return place

HIDDEN = '[i for i, v in enumerate(pad.pad.mask) if v]'
FOLLOWED = '[i for i, v in enumerate(pad.result.seen.flatten().tolist()) if not v]'

def hides(ask, wanted):
    "Wait until exactly these pixels are hidden, and the circuit has answered."
    until(f'the mask {wanted}', lambda: ask(HIDDEN)==wanted)
    until('its result', lambda: ask(FOLLOWED)==wanted)

def press(box, name, **how):
    box.get_by_role('button', name=name, **how).click()

def stroke(page, places):
    "Draw with the mouse from place to place."
    page.mouse.move(*places[0])
    page.mouse.down()
    for at in places[1:]:
        page.mouse.move(*at, steps=3)
    page.mouse.up()

# --- the pad

def test_paint(opened, ask, widget):
    "A stroke hides exactly the pixels under it, in Python and on the page; undo takes it back."
    box = widget('inpaint')
    few = box.get_by_role('listbox', name='completion shown large')
    assert len(ask(HIDDEN))==16                                   # the centre, as in the notebook
    press(box, 'hide nothing')
    hides(ask, [])
    truth = ask('pad.result.image[0, 0].flatten().tolist()')
    untouched = lambda shown: pixels(shown, 0)==truth
    picture(few, untouched)
    at = pixel_places(box.locator('canvas'))
    stroke(opened, [at(3, 2), at(3, 5), at(5, 5)])
    painted = [26, 27, 28, 29, 37, 45]
    hides(ask, painted)
    sample = ask('pad.result.samples[0, 0, 0].flatten().tolist()')
    shown, changed = picture(few, lambda shown: pixels(shown, 0)==sample), set()
    for i in range(4):
        differ = {j for j in range(64) if pixels(shown, i)[j]!=truth[j]}
        assert differ <= set(painted)                             # what is seen stays
        changed |= differ
    assert len(changed) >= 3 and ask('float(pad.result.entropy[0].flatten()[26])') > 0
    said = box.get_by_role('status')
    until('what is at the cursor', lambda: 'row 5, column 5: hidden' in said.inner_text())
    shoot(box, 'pad_stroke')
    press(box, 'undo')
    hides(ask, [])
    picture(few, untouched)

def test_the_same_mask_in_all_models(opened, ask):
    "The photographs come first; buttons choose who is asked, the mask stays."
    reach(opened, 'photos')
    box = opened.locator('.pcd-inpaint').first
    box.wait_for()
    hidden, means = ask('int((~photo_pad.result.seen).sum())'), {}
    for name in ('circuit', 'one normal', 'innovations'):
        press(box, name)
        until(name, lambda: ask('photo_pad.model.value')==name)
        asked = 'float((photo_pad.result.entropy - expected.entropy).abs().max())'
        model = dict(zip(('circuit', 'one normal', 'innovations'), ('circuit', 'one', 'told')))[name]
        ask(f"globals().__setitem__('expected', inpaint({model}, photo_pad.x_1chw, "
            "photo_pad.result.seen, 4, rng(0)))")
        until(f'the answer of {name}', lambda: ask(asked) < 1e-3)
        means[name] = ask('photo_pad.result.mean.mean().item()')
    assert ask('int((~photo_pad.result.seen).sum())')==hidden==128
    assert abs(means['circuit'] - means['innovations']) > .1
    shoot(box, 'pad_photos')
    press(box, 'all', exact=True)
    few = box.get_by_role('listbox', name='completion shown large')
    few.get_by_role('option', name='mean of one normal').click()
    until('the normal', lambda: ask('photo_pad.asked')=='one normal')
    assert few.get_by_role('option').count()==3
    assert ask('len(photo_pad.results)')==3 and ask('int((~photo_pad.result.seen).sum())')==128
    shoot(box, 'pad_all_models')
    press(box, 'innovations')
    until('one model', lambda: ask('len(photo_pad.results)')==1)

def test_first_screen(opened):
    "Title, a few words, and a pad to paint on: no scrolling."
    opened.evaluate("() => window.jupyterapp.shell.currentWidget.content.scrollToItem(0, 'start')")
    canvas = opened.locator('.pcd-inpaint canvas').first
    canvas.wait_for()
    at = steady('the canvas', canvas.bounding_box)
    assert at['y'] > 0 and at['y'] + at['height'] < opened.viewport_size['height']
    shoot(opened, 'first_screen')

# Is any part of the panel cut off? Do its words stand out from the page, and apart from each other? What is wide?
LAYOUT = '''box => {
    const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number); return (r + g + b)/765 }
    const style = e => getComputedStyle(e), [canvas, scale] = ['canvas', '.pcd-scale'].map(s => box.querySelector(s))
    const right = box.getBoundingClientRect().right, words = [...box.querySelectorAll('.pcd-head, .pcd-name, .pcd-readout, button, .widget-html-content, .widget-label')].filter(e => e.checkVisibility())
    const place = e => e.getBoundingClientRect(), apart = (a, b) => a.right < b.left + 1 || b.right < a.left + 1 || a.bottom < b.top + 1 || b.bottom < a.top + 1
    return { cut: [...box.querySelectorAll('.pcd-one, .pcd-scale, button, canvas, img, input:not([type=file])')].filter(e => e.getBoundingClientRect().right > right + 1).length,
             over: words.flatMap((a, i) => words.slice(i + 1).filter(b => !a.contains(b) && !b.contains(a) && !apart(place(a), place(b))).map(b => `${a.innerText} over ${b.innerText}`)),
             bar: scale ? Math.abs(scale.offsetHeight - scale.parentElement.offsetHeight) : 0, canvas: canvas ? place(canvas).width : 0,
             faint: words.filter(e => Math.abs(light(style(e).color) - light(style(box.closest('.jp-Notebook')).backgroundColor)) < .4 && !e.matches('[aria-pressed=true]')
                                      && e.checkVisibility() && !e.closest('.widget-toggle-buttons')).map(e => e.outerHTML) }
}'''

def test_layout(opened, ask, widget):
    "Narrow or wide, by day or by night: nothing is cut off, words can be read, pictures grow."
    wide = {}
    press(widget('inpaint'), 'hide all pixels')
    hides(ask, list(range(64)))
    for theme in ('Dark', 'Light'):
        opened.evaluate("name => window.jupyterapp.commands.execute('apputils:change-theme', "
                        "{ theme: `JupyterLab ${name}` })", theme)
        is_light = f"() => document.body.dataset.jpThemeLight === '{str(theme=='Light').lower()}'"
        opened.wait_for_function(is_light)
        for width in (800, 1600):
            opened.set_viewport_size(dict(width=width, height=1000))
            for name in ('inpaint', 'latents', 'samples', 'growth', 'ledger'):
                box = widget(name)
                if name=='inpaint':
                    box.locator('.pcd-scale').wait_for()
                found = steady('the layout', lambda: box.evaluate(LAYOUT))
                assert found['cut']==0 and found['bar'] < 1, (name, theme, width, found)
                assert found['faint']==[] and found['over']==[], (name, theme, width, found)
                wide[name, theme, width] = found['canvas']
                shoot(box, f'layout_{name}_{theme}_{width}')
    small = wide['inpaint', 'Light', 800]
    assert wide['inpaint', 'Light', 1600] > 1.5*small==1.5*wide['inpaint', 'Dark', 800]
    opened.set_viewport_size(dict(width=1280, height=1000))

def test_new_draws_and_save(opened, ask, widget):
    box = widget('inpaint')
    press(box, 'hide all pixels')
    hides(ask, list(range(64)))
    few = box.get_by_role('listbox', name='completion shown large')
    sample = 'pad.result.samples[0, 0].flatten().tolist()'
    first = ask(sample)
    picture(few, lambda shown: pixels(shown, 0)==first)
    press(box, 'other samples')
    other = until('other samples', lambda: (new := ask(sample))!=first and new)
    picture(few, lambda shown: pixels(shown, 0)==other)
    with opened.expect_download() as got:
        press(box, 'download')
    saved = np.array(Image.open(got.value.path()).convert('RGB'))
    if folder := os.environ.get('PCDISTILL_SHOTS'):
        got.value.save_as(Path(folder, 'saved.png'))
    assert got.value.suggested_filename=='completion.png' and saved.shape==(256 + 24, 3*256, 3)
    assert (saved[:256, :256]==110).all() and (saved[256:]==0).any()       # all hidden; words
    assert saved[16:256:32, 256 + 16:512:32, 0].flatten().tolist()==other  # the sample, enlarged

# the kernel is as slow as we want: an answer comes when a file is there, an error if it is not empty
SLOW = '''
import os, time, pcdistill.widgets as _w
_quick = _quick if '_quick' in globals() else _w.inpaint
def _slow(*a):
    while not os.path.exists(PATH): time.sleep(.01)
    if os.path.getsize(PATH): raise RuntimeError('out of memory')
    return _quick(*a)
_w.inpaint = _slow
'''

def test_the_pad_says_that_it_computes(opened, ask, widget, tmp_path):
    "From the stroke to its answer, or to what went wrong instead."
    box, sign = widget('inpaint'), widget('inpaint').get_by_role('progressbar', name='computing')
    press(box, 'hide nothing')
    hides(ask, [])
    sign.wait_for(state='hidden')
    for name, error in (('answer', ''), ('error', 'no')):
        ready = tmp_path/name
        ask(f"exec({SLOW.replace('PATH', repr(str(ready)))!r}, globals())")
        press(box, 'hide all pixels' if name=='answer' else 'hide nothing')
        sign.wait_for()
        shoot(box, f'pad_waits_for_{name}')
        assert box.evaluate("e => e.classList.contains('pcd-waiting')")
        (tmp_path/'new').write_text(error)
        (tmp_path/'new').rename(ready)
        sign.wait_for(state='hidden')
    box.get_by_role('alert').get_by_text('No answer: out of memory').wait_for()
    shoot(box, 'pad_error')
    ask("exec('_w.inpaint = _quick', globals())")
    press(box, 'other samples')
    hides(ask, [])
    box.get_by_text('out of memory').wait_for(state='detached')

def test_fast_painting_does_not_queue(opened, ask, widget):
    "Hundreds of moves make a few results, and the last one is of the whole stroke."
    box = widget('inpaint')
    at = pixel_places(box.locator('canvas'))
    ask("globals().__setitem__('masks', [])")
    ask("pad.pad.observe(lambda c: masks.append(len(masks)), 'mask')")
    opened.mouse.move(*at(0, 0))
    start = time.monotonic()
    opened.mouse.down()
    for row in range(8):
        opened.mouse.move(*at(row, 7*(row % 2==0)), steps=25)
    opened.mouse.up()
    sent = (time.monotonic()-start)/.12 + 2                       # one message every 120 ms
    before = ask('len(masks)')
    left = until('the end of the stroke', lambda: 56 in (h := ask(HIDDEN)) and h)
    hides(ask, left)
    assert len(left) > 30 and 1 <= ask('len(masks)') <= sent
    assert ask('len(masks)') - before <= 4                        # under way, the newest, the last
    press(box, 'hide all pixels')
    hides(ask, list(range(64)))
    shoot(box, 'pad_all')

def test_pad_by_touch(opened, ask, widget):
    box = widget('inpaint')
    press(box, 'hide nothing')
    hides(ask, [])
    at, finger = pixel_places(box.locator('canvas')), opened.context.new_cdp_session(opened.page)
    def touch(kind, *where):
        points = [dict(zip('xy', at(*where)))] if where else []
        finger.send('Input.dispatchTouchEvent', dict(type=kind, touchPoints=points))
    touch('touchStart', 2, 1)
    touch('touchMove', 3, 1)
    touch('touchMove', 5, 1)
    touch('touchEnd')
    hides(ask, [17, 25, 33, 41])

def test_pad_by_keyboard(opened, ask, widget):
    box = widget('inpaint')
    press(box, 'hide nothing')
    hides(ask, [])
    box.locator('canvas').focus()
    corner = ['ArrowDown']*8 + ['ArrowRight']*8
    for key in (*corner, 'ArrowLeft', 'Space', 'ArrowUp', 'Space'):
        opened.keyboard.press(key)
    hides(ask, [54, 62])
    opened.keyboard.press('s')
    opened.keyboard.press('Space')
    hides(ask, [62])
    opened.keyboard.press('u')
    hides(ask, [54, 62])
    opened.keyboard.press('h')

def test_where_the_tab_key_leads(opened, ask, widget):
    widget('inpaint').locator('canvas').focus()
    reached = []
    while 'sample 1' not in reached:
        opened.keyboard.press('Tab')
        reached.append(opened.evaluate('() => document.activeElement.getAttribute("aria-label")'))
        assert len(reached) < 20, reached
        if reached[-1]=='from the sample to the mean':
            opened.keyboard.press('ArrowRight')
            until('the slider', lambda: ask('pad.pad.blend') > 0)
    opened.keyboard.press('ArrowRight')
    until('the second sample', lambda: ask('pad.few.value')==1)
    wanted = ['paint hides pixels', 'paint shows pixels again', 'brush size in pixels']
    assert reached[:3]==wanted and 'from the sample to the mean' in reached, reached

DROP = """async canvas => {
    const paper = new OffscreenCanvas(16, 16), c = paper.getContext('2d')
    c.fillStyle = '#404040'
    c.fillRect(0, 0, 16, 16)
    const held = new DataTransfer()
    held.items.add(new File([await paper.convertToBlob()], 'grey.png', { type: 'image/png' }))
    const drop = { dataTransfer: held, bubbles: true, cancelable: true }
    canvas.dispatchEvent(new DragEvent('drop', drop))
}"""

def test_another_image_and_a_file_of_ones_own(opened, ask, widget, tmp_path):
    box = widget('inpaint')
    options = box.get_by_role('listbox', name='image to paint on').get_by_role('option')
    file, values = box.locator('input[type=file]'), 'pad.result.image.unique().tolist()'
    options.nth(4).click()
    until('image 4', lambda: ask('bool((pad.result.image[0]==test[4]).all())'))
    Image.new('RGB', (50, 30), (200, 10, 10)).save(tmp_path/'red.png')
    file.set_input_files(tmp_path/'red.png')
    until('the file, fitted', lambda: ask(values)==[67])
    box.locator('canvas').evaluate(DROP)
    until('a file dropped on it', lambda: ask(values)==[64])
    (tmp_path/'text.png').write_text('no image')
    file.set_input_files(tmp_path/'text.png')
    box.get_by_role('alert').get_by_text('wanted a picture').wait_for()
    options.nth(0).click()
    until('image 0', lambda: ask('bool((pad.result.image[0]==test[0]).all())'))
    press(box, 'hide nothing')
    hides(ask, [])
    box.get_by_label('brush size in pixels').fill('3')
    press(box, 'paint hides pixels')
    at = pixel_places(box.locator('canvas'))
    stroke(opened, [at(3, 3), at(4, 5)])
    broad = until('a broad stroke', lambda: len(h := ask(HIDDEN)) > 12 and h)
    until('its result', lambda: len(ask(FOLLOWED)) >= len(broad))
    shoot(box, 'inpaint_pad')

# --- the others

def test_latents(opened, ask, widget):
    box = widget('latents')
    def option(name, i):
        box.get_by_role('listbox', name=name).get_by_role('option').nth(i).click()
    before = ask('values.real.label')
    option('latent values', 5)
    k = until('another value', lambda: (k := ask('values.real.label'))!=before and k)
    box.get_by_text(k.split(':')[0] + ':').wait_for()
    opened.keyboard.press('ArrowRight')
    until('the next one', lambda: ask('values.every.value')==6)
    option('values most often beside it', 1)
    until('a neighbour', lambda: ask('values.every.value')!=6)
    option('patch to change', 3)
    until('another patch', lambda: ask('values.piece.value')==3)
    def lower_right(shown): # only that patch is another one
        image, now = pixels(shown, 0), pixels(shown, 1)
        changed = [j for j in range(64) if now[j]!=image[j]]
        return changed and all(j//8 >= 4 and j % 8 >= 4 for j in changed)
    picture(box.get_by_role('group', name='with this value'), lower_right)
    shoot(box, 'latent_browser')

def test_samples(opened, ask, widget):
    box = widget('samples')
    box.get_by_role('listbox', name='samples').get_by_role('option').nth(3).click()
    until('sample 3', lambda: ask('samples.every.value')==3)
    sample = ask('samples.drawn.x[3, 0].flatten().tolist()')
    near = ask('samples.drawn.near_bmchw[3, 0, 0].flatten().tolist()')
    picture(box.get_by_role('group', name='the chosen sample'),
            lambda shown: pixels(shown, 0)==sample and pixels(shown, 1)==near)
    name = ask("f'sample\\n{samples.drawn.bits_b[3]:.2f} bits/dim'")
    until('its bits', lambda: ask('samples.near.names[0]')==name)
    total, seed = 'samples.drawn.x.sum().item()', box.get_by_label('seed')
    first = ask(total)
    for value, same in (('7', False), ('0', True)):
        seed.fill(value)
        seed.press('Enter')
        until(f'samples of seed {value}', lambda: (ask(total)==first) is same)
    shoot(box, 'sample_browser')

SOURCE = """async image => {
    const data = await (await fetch(image.src)).arrayBuffer()
    return btoa(Array.from(new Uint8Array(data), v => String.fromCharCode(v)).join(''))
}"""

def figure_of(box, ok):
    "The figure in a widget, as the browser has it, as soon as it is as wanted."
    image = box.locator('.widget-image').first
    def wanted():
        shown = image.evaluate(SOURCE)
        return ok(shown) and shown
    return until('a figure as wanted', wanted)

def test_growth(opened, ask, widget):
    box = widget('growth')
    step, at = box.get_by_label('step', exact=True), 'steps.step.value'
    first = figure_of(box, lambda now: ask(at)==1)
    step.press('ArrowUp')
    until('step 2', lambda: ask(at)==2)
    figure_of(box, lambda now: now!=first)
    until('what happened', lambda: 'Round 1, tree 1' in box.inner_text())
    shoot(box, 'growth_stepper')
    step.press('ArrowDown')
    figure_of(box, lambda now: now==first)
    assert ask(at)==1
    step.fill('3')
    step.press('Enter')
    until('step 3', lambda: ask(at)==3)

def test_ledger(opened, ask, widget):
    box = widget('ledger')
    first = figure_of(box, lambda now: 'image 0' in box.inner_text())
    box.get_by_role('listbox', name='image').get_by_role('option').nth(2).click()
    until('image 2', lambda: 'image 2' in box.inner_text())
    figure_of(box, lambda now: now!=first)
    shoot(box, 'ledger_view')

def test_figures(opened):
    "Two figures are pictures, also in a kernel whose pyplot drew none; each widget brings its own for who has none."
    shown = opened.evaluate("""() => [...window.jupyterapp.shell.currentWidget.model.cells]
        .flatMap(c => c.outputs?.toJSON() ?? []).map(o => o.data ?? {})""")
    figures = [d for d in shown if 'Figure size' in str(d.get('text/plain'))]
    widgets = [d for d in shown if 'application/vnd.jupyter.widget-view+json' in d]
    assert len(figures)==2 and len(widgets)==6 and all('image/png' in d for d in figures + widgets)

NAMELESS = """box => [...box.querySelectorAll('button, input, select, canvas, [tabindex="0"], '
        + '[role=listbox], [role=img], [role=option]')]
    .filter(e => e.type !== 'file' && !['aria-label', 'aria-labelledby', 'title']
        .some(a => e.getAttribute(a)))
    .filter(e => ![...(e.labels ?? []), e].some(l => l.textContent.trim()))
    .map(e => e.outerHTML.slice(0, 200))"""

@pytest.mark.parametrize('name', [name for name in WORDS if name!='photos'])
def test_every_control_has_a_name(opened, widget, name):
    "What can be focused says what it is."
    box = widget(name)
    steady('the number of controls', lambda: box.locator('*').count())
    assert box.evaluate(NAMELESS)==[]

def test_nothing_went_wrong(opened):
    "As long as the kernel lives, no script of the page complains."
    assert opened.wrong==[]

# --- the end of a kernel, and what was asked of the network

GONE = 'The kernel of this widget is gone: run all cells again (Run → Run All Cells), or load the page again.'
INERT = """() => [...document.querySelectorAll('.pcd-panel')].every(p =>
    [...p.children].every(e => e.inert !== e.matches('.pcd-gone')))"""
STATE = "e => [e.innerHTML, ...[...e.querySelectorAll('canvas')].map(c => c.toDataURL())]"

def has_gone(page, widget, name):
    "The widget says so once, in every panel, and neither mouse nor keyboard do anything."
    page.locator('.pcd-inpaint').last.get_by_text(GONE).wait_for()
    box = widget('inpaint')
    until('one alert', lambda: box.get_by_role('alert').count()==1)
    until('controls that cannot be reached', lambda: page.evaluate(INERT))
    shoot(box, name)
    canvas, before = box.locator('canvas'), steady('the widget', lambda: box.evaluate(STATE))
    page.mouse.click(*pixel_places(canvas)(1, 1))
    canvas.focus()
    page.keyboard.press('Space')
    assert page.evaluate("() => document.activeElement.closest('.pcd-panel')") is None
    assert steady('the widget', lambda: widget('inpaint').evaluate(STATE), 2)==before

def works_again(page, lab, widget):
    "After another run the pad does what it did."
    ask = run_all(page, lab)
    gone = page.locator('.jupyter-widgets-disconnected')
    until('no widget that is gone', lambda: gone.count()==0)
    box = widget('inpaint')
    press(box, 'hide nothing')
    hides(ask, [])
    page.mouse.click(*pixel_places(box.locator('canvas'))(6, 1))
    hides(ask, [49])
    assert not box.get_by_text(GONE).is_visible()

@pytest.mark.parametrize('how', ['restarted', 'died'])
def test_kernel_ends(opened, lab, ask, widget, how):
    "The widgets of a kernel that is gone say so and do nothing; after another run they work."
    assert not widget('inpaint').get_by_text(GONE).is_visible()
    if how=='restarted':
        opened.evaluate("() => { window.jupyterapp.commands.execute('kernelmenu:restart') }")
    else:
        ask.client.execute('import os; os._exit(1)')
    opened.locator('.jp-Dialog').locator('.jp-mod-accept').click()
    has_gone(opened, widget, f'kernel_{how}')
    works_again(opened, lab, widget)

def test_reload(opened, ask, widget):
    "After a reload of the saved page the widgets are as they were, and live."
    opened.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    before = ask(HIDDEN)
    opened.reload()
    loaded(opened)
    box = widget('inpaint')
    assert ask(HIDDEN)==before and 0 not in before
    opened.mouse.click(*pixel_places(box.locator('canvas'))(0, 0))
    hides(ask, [0, *before])
    few = box.get_by_role('listbox', name='completion shown large')
    sample = ask('pad.result.samples[0, 0, 0].flatten().tolist()')
    picture(few, lambda shown: pixels(shown, 0)==sample)
    shoot(box, 'reload')

def test_reload_after_a_shutdown(opened, lab, widget):
    "A kernel that is shut down is missed at once; after a reload JupyterLab says so itself."
    opened.evaluate("() => { window.jupyterapp.commands.execute('kernelmenu:shutdown') }")
    has_gone(opened, widget, 'kernel_shut_down')
    opened.reload()
    loaded(opened)
    reach(opened, 'inpaint')
    instead = opened.get_by_text('Error displaying widget')
    instead.first.wait_for()
    assert opened.locator('.pcd').count()==0
    works_again(opened, lab, widget)
    assert instead.count()==0

def test_nothing_left_the_machine_and_nothing_else_went_wrong(opened):
    "All requests were local; what was complained of is that a kernel had gone."
    asked = [urlparse(u) for u in opened.asked]
    assert len(asked) > 20
    assert [u for u in asked if u.scheme not in ('data', 'blob') and u.hostname!='127.0.0.1']==[]
    assert [w for w in opened.wrong if 'model not found' not in w]==[]
