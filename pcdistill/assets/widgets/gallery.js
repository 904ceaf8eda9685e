// Small pictures side by side, cut out of one PNG; where `pick` is true one of them is chosen by mouse, touch or keyboard and `value` is its number.
function render({ model, el }) {
  const head = element('div', { class: 'pcd-head', 'aria-hidden': 'true' }), box = element('div')   // the name of the box says the same
  let url = null

  function draw() {
    const n = model.get('n'), cols = Math.max(1, Math.min(n, model.get('cols'))), rows = Math.ceil(n/cols), names = model.get('names')
    const [w, h] = [model.get('width'), model.get('height')], scale = model.get('scale')
    const pick = model.get('pick'), focused = box.contains(document.activeElement)
    const side = names.length ? `max(40px, ${grown(w)})` : grown(w)   // room for words
    const part = (i, of) => of > 1 ? `${100*i/(of - 1)}%` : '0%'
    if (url) URL.revokeObjectURL(url)
    url = URL.createObjectURL(new Blob([bytes(model.get('png'))], { type: 'image/png' }))
    head.textContent = model.get('label')
    box.className = w < 30 ? 'pcd-gallery pcd-tight' : 'pcd-gallery'
    box.setAttribute('role', pick ? 'listbox' : 'group'); box.setAttribute('aria-label', model.get('label'))
    box.style.maxWidth = `calc(${cols}*(${side} + 8px))`            // fewer a row where there is no room
    box.replaceChildren(...Array.from({ length: n }, (_, i) => {
      const one = element('div', { class: 'pcd-one' }), image = element('div', { class: 'pcd-image' })
      const name = names[i] ?? (n > 1 ? String(i) : model.get('label'))
      Object.assign(image.style, { aspectRatio: `${w}/${h}`, backgroundImage: `url(${url})`, backgroundSize: `${100*cols}% ${100*rows}%`,
                                   backgroundPosition: `${part(i % cols, cols)} ${part(Math.floor(i/cols), rows)}` })
      one.style.width = side
      one.setAttribute('role', pick ? 'option' : 'img'); one.setAttribute('aria-label', name.replace('\n', ', '))
      if (scale > 0) image.append(element('div', { class: 'pcd-scale' }, ...[scale, scale/2, 0].map(v => element('span', {}, String(+v.toPrecision(2))))))
      one.append(image)
      if (names[i]) one.append(element('div', { class: 'pcd-name' }, names[i]))
      if (pick) one.onclick = () => choose(i)
      return one
    }))
    mark()
    if (focused && pick) box.children[model.get('value')]?.focus()
  }
  function mark() {
    if (!model.get('pick')) return
    const value = model.get('value')
    for (const [i, one] of [...box.children].entries()) {
      one.setAttribute('aria-selected', i === value)
      one.tabIndex = i === Math.max(0, value) ? 0 : -1  // one stop of the tab key; arrows go on from there
    }
  }
  function choose(i) { model.set('value', i); model.save_changes(); mark(); box.children[i]?.focus() }

  box.onkeydown = e => {
    if (!model.get('pick')) return
    const n = model.get('n'), value = Math.max(0, model.get('value'))
    const cols = [...box.children].filter(c => c.offsetTop === box.children[0].offsetTop).length
    const to = { ArrowRight: value + 1, ArrowLeft: value - 1, ArrowDown: value + cols, ArrowUp: value - cols, Home: 0, End: n - 1, Enter: value, ' ': value }[e.key]
    if (to === undefined) return
    e.preventDefault()
    if (to >= 0 && to < n) choose(to)
  }
  const drawn = 'change:png change:names change:label'
  model.on(drawn, draw); model.on('change:value', mark)
  el.classList.add('pcd')
  el.dataset.lmSuppressShortcuts = 'true'; el.onkeydown = e => e.stopPropagation()   // the notebook has keys of its own
  el.append(head, box); draw()
  return () => { model.off(drawn, draw); model.off('change:value', mark); if (url) URL.revokeObjectURL(url) }
}
export default { render }
