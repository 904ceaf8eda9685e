// What the widgets share; Python puts it before each of their scripts.
function element(kind, attributes = {}, ...inside) {
  const e = document.createElement(kind)
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v)
  e.append(...inside)
  return e
}
const bytes = v => v instanceof DataView ? new Uint8Array(v.buffer, v.byteOffset, v.byteLength) : new Uint8Array(v ?? 0)

// Without a kernel nothing can be done: the panel dims, says so (widgets.css), and neither mouse nor keyboard reach its controls.
function watchKernel(model, el) {
  model.on('comm_live_update', () => setTimeout(() => { // when all widgets of the panel have heard
    const panel = el.closest('.pcd-panel')
    for (const e of panel?.children ?? []) e.inert = panel.matches('.jupyter-widgets-disconnected') && !e.matches('.pcd-gone')
  }))
  const manager = model.widget_manager                 // it hears of a restart by itself, of a shutdown only from here
  manager.kernel?.disposed?.connect(() => manager.disconnect())
}
