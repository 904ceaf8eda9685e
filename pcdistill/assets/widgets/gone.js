// What a panel says when its kernel has gone. Without a kernel nothing can be done: the panel dims (widgets.css), and neither mouse nor keyboard reach its controls.
function render({ model, el }) {
  el.append(element('div', { role: 'alert' }, 'The kernel of this widget is gone: run all cells again (Run → Run All Cells), or load the page again.'))
  model.on('comm_live_update', () => setTimeout(() => { // when all widgets of the panel have heard
    const panel = el.closest('.pcd-panel')
    for (const e of panel?.children ?? []) e.inert = panel.matches('.jupyter-widgets-disconnected') && !e.matches('.pcd-gone')
  }))
  const manager = model.widget_manager                 // it hears of a restart by itself, of a shutdown only from here
  manager.kernel?.disposed?.connect(() => manager.disconnect())
}
export default { render }
