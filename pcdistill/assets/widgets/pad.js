// A canvas over the pixels of one image: paint what is hidden. Python sees `mask` (1 = hidden), `at` (pixel under the cursor), `seed` (of the draws) and
// `dropped` (a file). `answered` is the mask of the pictures shown beside it: as long as it is another one, Python is computing.
const WAIT = 120, LIMIT = 9e6                       // ms between two messages while painting; bytes of a dropped file
const LEGEND = 'Arrow keys move, space paints, H hides, S shows, U undoes, plus and minus change the brush.'

function render({ model, el }) {
  const rows = model.get('rows'), cols = model.get('cols'), cell = Math.ceil(480/cols)
  let mask = bytes(model.get('mask')).slice(), undo = [], hide = true, last = null, timer = null, at = null
  const canvas = element('canvas', { width: cols*cell, height: rows*cell, tabindex: 0, role: 'application', 'aria-label': 'picture to paint on. ' + LEGEND })
  const ctx = canvas.getContext('2d')
  const picture = new OffscreenCanvas(cols, rows)
  const button = (text, tip, act) => { const b = element('button', { type: 'button', title: tip, 'aria-label': tip }, text); b.onclick = act; return b }
  const hides = button('hide', 'paint hides pixels', () => tool(true)), shows = button('show', 'paint shows pixels again', () => tool(false))
  const size = element('input', { type: 'range', min: 1, max: Math.max(3, Math.ceil(rows/3)), value: model.get('brush'), 'aria-label': 'brush size in pixels', title: 'brush size in pixels' })
  const file = element('input', { type: 'file', accept: 'image/*', 'aria-label': 'open an image of your own', hidden: '' })
  const note = element('div', { class: 'pcd-note', role: 'alert' }), readout = element('div', { class: 'pcd-readout', role: 'status', 'aria-live': 'polite' })
  const bar = element('div', { class: 'pcd-bar', role: 'toolbar', 'aria-label': 'painting' }, hides, shows, size,
    button('undo', 'undo the last stroke', back), button('none', 'hide nothing', () => fill(0)), button('all', 'hide all pixels', () => fill(1)),
    button('open …', 'open an image of your own, or drop one on the picture', () => file.click()), file)
  const busy = element('div', { class: 'pcd-busy', role: 'progressbar', 'aria-label': 'computing' }, 'computing …')

  const blend = element('input', { type: 'range', min: 0, max: 1, step: .05, value: model.get('blend'), 'aria-label': 'from the sample to the mean' })
  const mix = element('div', { class: 'pcd-bar', role: 'toolbar', 'aria-label': 'completions' }, 'sample', blend, 'mean',
    button('new draws', 'other samples for the same mask', () => { model.set('seed', model.get('seed') + 1); model.save_changes() }),
    button('save', 'download what is seen, the completion and the entropy as one picture', save))

  function draw() {
    waiting()
    const rgb = bytes(model.get('image')), shown = new ImageData(cols, rows)
    if (rgb.length !== 3*rows*cols) return
    for (let i = 0; i < rows*cols; i++) shown.data.set(mask[i] ? [110, 110, 110, 255] : [...rgb.subarray(3*i, 3*i + 3), 255], 4*i)
    picture.getContext('2d').putImageData(shown, 0, 0)
    ctx.imageSmoothingEnabled = false; ctx.drawImage(picture, 0, 0, canvas.width, canvas.height)
    ctx.lineWidth = Math.max(1, cell/12); ctx.strokeStyle = '#e6781e'; ctx.beginPath()
    for (let i = 0; i < rows*cols; i++) if (mask[i]) {            // hatched: no picture looks like that
      const x = i % cols*cell, y = Math.floor(i/cols)*cell
      ctx.moveTo(x, y + cell); ctx.lineTo(x + cell, y); ctx.moveTo(x, y + cell/2); ctx.lineTo(x + cell/2, y); ctx.moveTo(x + cell/2, y + cell); ctx.lineTo(x + cell, y + cell/2)
    }
    ctx.stroke()
    if (!at) return
    const [r0, r1, c0, c1] = under(at)
    ctx.lineWidth = 2; ctx.strokeStyle = hide ? '#e6781e' : '#2a7fd4'
    ctx.strokeRect(c0*cell + 1, r0*cell + 1, (c1 - c0)*cell - 2, (r1 - r0)*cell - 2)
  }
  function under([r, c]) {                             // the brush's rows and columns
    const n = Number(size.value), a = Math.floor((n - 1)/2)
    return [Math.max(0, r - a), Math.min(rows, r - a + n), Math.max(0, c - a), Math.min(cols, c - a + n)]
  }
  function stamp(p) {
    const [r0, r1, c0, c1] = under(p)
    for (let r = r0; r < r1; r++) mask.fill(hide ? 1 : 0, r*cols + c0, r*cols + c1)
  }
  function line([r0, c0], [r1, c1]) {                  // a fast hand skips pixels
    const n = Math.max(1, Math.abs(r1 - r0), Math.abs(c1 - c0))
    for (let i = 0; i <= n; i++) stamp([Math.round(r0 + (r1 - r0)*i/n), Math.round(c0 + (c1 - c0)*i/n)])
  }
  function send() {                                    // at most one message every WAIT ms; the widget manager keeps only the newest while Python is busy
    timer ??= setTimeout(() => { timer = null; model.set('mask', new DataView(mask.slice().buffer)); if (at) model.set('at', at); model.save_changes() }, WAIT)
  }
  function waiting() {                                 // for an answer to this mask?
    const of = bytes(model.get('answered')), wait = of.length !== mask.length || of.some((v, i) => v !== mask[i])
    el.closest('.pcd-panel')?.classList.toggle('pcd-waiting', wait)
  }
  async function save() {                              // what is seen, and the two large pictures
    const side = Math.ceil(256/cols), [w, h] = [cols*side, rows*side], paper = new OffscreenCanvas(3*w, h + 24), c = paper.getContext('2d')
    const shown = [...el.closest('.pcd-panel').querySelectorAll('.pcd-answer [role=group] .pcd-one')], most = shown[1].querySelector('span')
    const titles = ['seen', ...shown.map(e => e.getAttribute('aria-label'))], pictures = [picture]
    for (const e of shown) {
      pictures.push(new Image())
      pictures.at(-1).src = e.querySelector('.pcd-image').style.backgroundImage.slice(5, -2)
      await pictures.at(-1).decode()
    }
    if (most) titles[2] += `, 0 to ${most.textContent}`
    c.fillStyle = 'white'; c.fillRect(0, 0, 3*w, h + 24); c.imageSmoothingEnabled = false
    c.fillStyle = 'black'; c.font = '13px sans-serif'
    for (const [i, p] of pictures.entries()) { c.drawImage(p, i*w, 0, w, h); c.fillText(titles[i], i*w + 4, h + 17, w - 8) }
    const link = element('a', { href: URL.createObjectURL(await paper.convertToBlob()), download: 'completion.png' })
    link.click(); setTimeout(() => URL.revokeObjectURL(link.href), 10000)
  }
  function remember() { undo.push(mask.slice()); undo = undo.slice(-50) }
  function back() { if (undo.length) { mask = undo.pop(); draw(); send() } }
  function fill(v) { remember(); mask.fill(v); draw(); send() }
  function tool(h) { hide = h; hides.setAttribute('aria-pressed', h); shows.setAttribute('aria-pressed', !h); draw() }
  function where(e) {
    const box = canvas.getBoundingClientRect(), clip = (v, n) => Math.max(0, Math.min(n - 1, Math.floor(v*n)))
    return [clip((e.clientY - box.top)/box.height, rows), clip((e.clientX - box.left)/box.width, cols)]
  }
  function take(f) {
    if (!f) return
    if (f.size > LIMIT) note.textContent = `wanted an image of at most ${LIMIT/1e6} MB, got ${Math.round(f.size/1e6)} MB`
    else f.arrayBuffer().then(b => { model.set('dropped', new DataView(b)); model.save_changes() })
  }

  canvas.onpointerdown = e => { e.preventDefault(); canvas.focus(); canvas.setPointerCapture(e.pointerId); remember(); last = at = where(e); line(last, last); draw(); send() }
  canvas.onpointermove = e => {
    const p = where(e)
    if (at && p[0] === at[0] && p[1] === at[1]) return
    at = p
    if (last) { line(last, p); last = p }
    draw(); send()
  }
  canvas.onpointerup = canvas.onpointercancel = () => { last = null }
  canvas.onpointerleave = () => { if (!last && document.activeElement !== canvas) { at = null; draw() } }
  canvas.onfocus = () => { at ??= [rows >> 1, cols >> 1]; draw() }
  canvas.onkeydown = e => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[e.key], key = e.key.toLowerCase()
    if (step) { at = [Math.max(0, Math.min(rows - 1, at[0] + step[0])), Math.max(0, Math.min(cols - 1, at[1] + step[1]))]; draw(); send() }
    else if (key === ' ') { remember(); stamp(at); draw(); send() }
    else if (key === 'h' || key === 's') tool(key === 'h')
    else if (key === 'u') back()
    else if (key === '+' || key === '-') { size.value = Number(size.value) + (key === '+' ? 1 : -1); size.oninput() }
    else return
    e.preventDefault()
  }
  canvas.ondragover = e => e.preventDefault()
  canvas.ondrop = e => { e.preventDefault(); e.stopPropagation(); take(e.dataTransfer.files[0]) }
  file.onchange = () => { take(file.files[0]); file.value = '' }
  size.oninput = () => { model.set('brush', Number(size.value)); model.save_changes(); draw() }

  blend.oninput = () => { model.set('blend', Number(blend.value)); model.save_changes() }

  const fromPython = () => { if (!last && !timer) mask = bytes(model.get('mask')).slice(); draw() }
  const newImage = () => { clearTimeout(timer); timer = null; last = null; undo = []; fromPython() }
  const said = () => { note.textContent = model.get('note'); readout.textContent = model.get('readout') }
  model.on('change:answered', waiting); model.on('change:mask', fromPython); model.on('change:image', newImage); model.on('change:note change:readout', said)
  el.classList.add('pcd')
  el.dataset.lmSuppressShortcuts = 'true'; el.onkeydown = e => e.stopPropagation()   // the notebook has keys of its own
  for (const e of [canvas, bar, mix, readout, note]) e.style.width = grown(240)
  el.append(canvas, bar, mix, busy, note, readout)
  tool(true); said(); setTimeout(waiting)              // when it has its place in the panel
  return () => { clearTimeout(timer); model.off('change:answered', waiting); model.off('change:mask', fromPython); model.off('change:image', newImage); model.off('change:note change:readout', said) }
}
export default { render }
