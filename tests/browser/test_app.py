"""The page of `pcdistill app` in a real (headless) Chromium: widgets that work, and a kernel that takes no orders."""
import contextlib, http.client, os, re, subprocess, sys, urllib.error, urllib.request
from urllib.parse import urlparse
import psutil, pytest
from PIL import Image
from test_play import (CHROMIUM, FLAGS, PATIENCE, Page, free_port, pixel_places, run_folder, shoot, steady,
                       stroke, surroundings, sync_playwright, until)

try:
    import voila
except ImportError:
    if os.environ.get('PCDISTILL_BROWSER')=='required':
        raise
    pytest.skip('the page needs Voilà: make browser', allow_module_level=True)
pytestmark = pytest.mark.browser

class Served:
    "A page, its address, and the log of its server."
    def __init__(self, folder, run_folder):
        port = free_port()
        self.file = folder/'app.log'
        gs, self.ran = folder/'bin'/'gs', folder/'ran' # a Ghostscript that says when it was called
        gs.parent.mkdir()
        gs.write_text(f'#!/bin/sh\ntouch {self.ran}\n')
        gs.chmod(0o755)
        env = surroundings(folder, run_folder)
        env['PATH'] = f'{gs.parent}{os.pathsep}{env["PATH"]}'
        command = [sys.executable, '-m', 'pcdistill', 'app', '--run', run_folder, '--no-browser', '--port', port]
        with self.file.open('w') as log:
            self.process = subprocess.Popen([str(w) for w in command], cwd=folder, stdout=log,
                                            stderr=subprocess.STDOUT, env=env)

    def log(self):
        return self.file.read_text()

    def address(self):
        assert self.process.poll() is None, self.log()
        found = re.search(r'http://localhost:\d+/\?token=\w+', self.log())
        return found and found[0]

@pytest.fixture(scope='module')
def served(tmp_path_factory, run_folder):
    served = Served(tmp_path_factory.mktemp('app'), run_folder)
    try:
        served.url = until('the page', served.address)
        served.base = served.url.split('/?')[0]
        yield served
    finally:
        served.process.terminate()
        served.process.wait(60)

@pytest.fixture(scope='module')
def chromium():
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()

def visit(chromium, served, width, theme):
    page = Page(chromium.new_page(viewport=dict(width=width, height=1000), color_scheme=theme))
    page.set_default_timeout(1000*PATIENCE)
    page.goto(f'{served.url}&theme={theme}', wait_until='commit')
    page.locator('.pcd-ledger').wait_for()
    return page

@pytest.fixture(scope='module', params=[(1280, 'light'), (800, 'dark')], ids=['1280-light', '800-dark'])
def visited(chromium, served, request):
    page = visit(chromium, served, *request.param)
    page.look = '-'.join(map(str, request.param))
    yield page
    page.close()

def choose(box, name, i):
    box.get_by_role('listbox', name=name, exact=True).get_by_role('option').nth(i).click()

def test_every_widget_works(visited, served, tmp_path):
    "The pad answers a stroke and refuses what is no picture; the browsers answer a choice."
    pad, latents, samples, ledger = (visited.locator(f'.pcd-{n}') for n in ('inpaint', 'latents', 'samples', 'ledger'))
    pad.get_by_text('16 pixels hidden').wait_for()
    at = pixel_places(pad.locator('canvas'))
    stroke(visited, [at(0, 0), at(0, 2)])
    pad.get_by_text('19 pixels hidden').wait_for()
    shoot(pad, f'app_pad_{visited.look}')
    before = latents.inner_text()
    choose(latents, 'latent values', 5)
    until('another value', lambda: latents.inner_text()!=before)
    shoot(latents, f'app_latents_{visited.look}')
    before = samples.inner_text()
    choose(samples, 'samples', 3)
    until('another sample', lambda: samples.inner_text()!=before)
    shoot(samples, f'app_samples_{visited.look}')
    choose(ledger, 'image', 2)
    until('image 2', lambda: 'image 2' in ledger.inner_text())
    shoot(ledger, f'app_ledger_{visited.look}')
    Image.new('1', (7000, 7000)).save(tmp_path/'bomb.png')         # 6 KB, 49 million pixels
    (tmp_path/'program.eps').write_text('%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n')
    for name in ('bomb.png', 'program.eps'):
        pad.locator('input[type=file]').set_input_files(tmp_path/name)
        pad.get_by_role('alert').get_by_text('wanted a picture').wait_for()
        Image.new('RGB', (30, 20), 'red').save(tmp_path/'red.png')
        pad.locator('input[type=file]').set_input_files(tmp_path/'red.png')
        until('a picture that can be read', lambda: not pad.get_by_role('alert').get_by_text('wanted a picture').is_visible())
    assert not served.ran.exists()

def test_no_source_no_error_no_other_host(visited):
    assert visited.wrong==[]
    asked = [urlparse(u) for u in visited.asked]
    assert len(asked) > 20
    assert {u.hostname for u in asked if u.scheme not in ('data', 'blob')}=={'localhost'}
    assert 'load_run(' not in visited.content()

ORDERS = """async file => {
    const config = JSON.parse(document.getElementById('jupyter-config-data').textContent)
    const address = `ws://${location.host}/api/kernels/${config.kernelId}/channels?session_id=orders`
    const socket = new WebSocket(address)
    await new Promise((done, fail) => { socket.onopen = done; socket.onerror = fail })
    const code = `open(${JSON.stringify(file)}, 'w').write('done')`
    const said = []
    socket.onmessage = m => typeof m.data === 'string' && said.push(JSON.parse(m.data).header.msg_type)
    const send = (channel, msg_type, content) => socket.send(JSON.stringify({ channel, content, metadata: {},
        parent_header: {}, header: { msg_id: crypto.randomUUID(), msg_type, username: '', session: 'orders', date: '', version: '5.3' } }))
    const debug = { type: 'request', seq: 1, command: 'evaluate', arguments: { expression: code } }
    for (const channel of ['shell', 'control', 'stdin']) {
        send(channel, 'execute_request', { code, silent: false, store_history: false, user_expressions: { a: code }, allow_stdin: false })
        send(channel, 'debug_request', debug)
        send(channel, 'complete_request', { code: 'import o', cursor_pos: 8 })
        send(channel, 'input_reply', { value: code })
    }
    send('shell', 'kernel_info_request', {})
    while (!said.includes('kernel_info_reply')) await new Promise(done => setTimeout(done, 50))
    socket.close()
    return said
}"""

def test_a_browser_gives_no_orders(visited, served, tmp_path):
    "What would run code is dropped, on every channel; what comes after it is answered."
    said = visited.evaluate(ORDERS, str(tmp_path/'made'))
    assert not (tmp_path/'made').exists()
    assert not {'execute_reply', 'execute_result', 'complete_reply', 'debug_reply', 'error'} & set(said)
    for kind in ('execute_request', 'debug_request', 'complete_request', 'input_reply'):
        assert f'type "{kind}", which is not allowed' in served.log(), kind

@pytest.mark.parametrize('path', ['/', '/api/kernels/11111111-2222-3333-4444-555555555555', '/voila/files/images/pad.png'])
def test_strangers_are_sent_away(served, path):
    "Without the token of the address there is a form that asks for it, or nothing."
    try:
        with urllib.request.urlopen(served.base + path, timeout=PATIENCE) as answer:
            assert '/login?' in answer.url
    except urllib.error.HTTPError as e:
        assert e.code==403

def test_pages_of_other_sites_cannot_speak_to_a_kernel(visited, served):
    "Not even with the cookie of the page."
    kernel = visited.evaluate("() => JSON.parse(document.getElementById('jupyter-config-data').textContent).kernelId")
    cookie = '; '.join(f'{c["name"]}={c["value"]}' for c in visited.context.cookies())
    def status(origin):
        out = http.client.HTTPConnection(urlparse(served.url).netloc, timeout=PATIENCE)
        out.request('GET', f'/api/kernels/{kernel}/channels?session_id=a', headers={'Cookie': cookie, 'Origin': origin, 'Upgrade': 'websocket',
            'Connection': 'Upgrade', 'Sec-WebSocket-Version': '13', 'Sec-WebSocket-Key': 'AAAAAAAAAAAAAAAAAAAAAA=='})
        with contextlib.closing(out), out.getresponse() as answer: return answer.status
    assert (status(served.base), status('http://elsewhere.example'))==(101, 403)

def test_it_listens_on_this_machine_only(served):
    found = psutil.Process(served.process.pid).net_connections('tcp')
    assert {c.laddr.ip for c in found if c.status=='LISTEN'} <= {'127.0.0.1', '::1'}

def test_a_page_that_is_left_ends_its_kernel(chromium, served):
    page, before = visit(chromium, served, 1280, 'light'), served.log().count('Kernel shutdown')
    page.goto('about:blank')
    until('the end of its kernel', lambda: served.log().count('Kernel shutdown') > before)
    page.close()
