// Sliders and toggles: each points into the table below it, which is all there without JavaScript.
function toggle(box, rows, show) {
  const group = document.createElement('div');
  group.className = 'toggle';
  group.setAttribute('role', 'group');
  group.setAttribute('aria-label', box.dataset.label);
  const buttons = rows.map((row, index) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = row.firstElementChild.textContent.split(':')[0];
    button.addEventListener('click', () => press(index));
    return button;
  });
  const press = index => {
    buttons.forEach((button, other) => button.setAttribute('aria-pressed', String(other === index)));
    show(index);
  };
  group.append(...buttons);
  press(0);
  return group;
}
for (const box of document.querySelectorAll('.slider')) {
  const rows = [...box.querySelectorAll('tbody tr')];
  if (rows.length === 2) {
    const told = document.createElement('output');
    const control = toggle(box, rows, at => {
      rows.forEach((row, index) => row.classList.toggle('here', index === at));
      const [name, above, below, ratio] = [...rows[at].children].map(cell => cell.textContent);
      told.textContent = `${ratio}  ${name.split(':')[0]} (${above} over ${below})`;
    });
    box.querySelector('.control').append(told, control);
    continue;
  }
  const range = document.createElement('input');
  range.type = 'range';
  range.min = '0';
  range.max = String(rows.length - 1);
  const reply = rows.findIndex(row => row.textContent.startsWith('t8'));
  range.value = reply < 0 ? range.max : String(reply);
  range.setAttribute('aria-label', box.dataset.label);
  const shown = document.createElement('output');
  const show = () => {
    const at = Number(range.value);
    rows.forEach((row, index) => row.classList.toggle('here', index === at));
    const [name, , , ratio] = [...rows[at].children].map(cell => cell.textContent);
    shown.textContent = `${ratio}  at ${name}`;
    range.setAttribute('aria-valuetext', shown.textContent);
  };
  range.addEventListener('input', show);
  box.querySelector('.control').append(shown, range);
  show();
}
